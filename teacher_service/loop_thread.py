"""One event loop in a daemon thread, shared by all blocking clients of a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class LoopThread:
    """Begun by whoever borrows it first, ended by whoever gives it back last.

    One for all, because gRPC's asyncio layer wakes every loop of a process for every event. A
    forked child has no thread but its own: there :attr:`alive` is false, and a new one is borrowed.
    """

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _shared: ClassVar[LoopThread | None] = None

    def __init__(self) -> None:
        self._borrowers = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="teacher-client", daemon=True)
        self._thread.start()

    @classmethod
    def borrow(cls) -> LoopThread:
        """The process's loop."""
        with cls._guard:
            if cls._shared is None:
                cls._shared = cls()
            cls._shared._borrowers += 1
            return cls._shared

    @classmethod
    def forget(cls) -> None:
        """Of the parent process; called in a forked child."""
        cls._guard, cls._shared = threading.Lock(), None

    def give_back(self) -> None:
        """No call of this borrower is under way any more."""
        with self._guard:
            self._borrowers -= 1
            if self._borrowers:
                return
            LoopThread._shared = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` on the loop; cancelling the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _main(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_cancel_the_rest())
        self._loop.close()


async def _cancel_the_rest() -> None:
    """End whatever else runs on this loop."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


os.register_at_fork(after_in_child=LoopThread.forget)
