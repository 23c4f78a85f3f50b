"""The one event loop, in a daemon thread, that carries all blocking calls of a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class LoopThread:
    """Begun at first use, never ended: a daemon, as idle as its users.

    One for all, clients and servers in threads alike: gRPC's asyncio layer wakes every loop of a
    process for every event, and ends with its last user, in whatever thread the garbage collector
    meets that. A forked child has no thread but its own: there :attr:`alive` is false, and
    :meth:`shared` begins anew.
    """

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _shared: ClassVar[LoopThread | None] = None

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="teacher-client", daemon=True
        )
        self._thread.start()

    @classmethod
    def shared(cls) -> LoopThread:
        """The process's loop."""
        with cls._guard:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    @classmethod
    def forget(cls) -> None:
        """Of the parent process; called in a forked child."""
        cls._guard, cls._shared = threading.Lock(), None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` on the loop; cancelling the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


os.register_at_fork(after_in_child=LoopThread.forget)
