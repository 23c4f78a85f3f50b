"""The blocking client: the asyncio client on an event loop in a thread of its own. No torch.

One implementation instead of two. Side-by-side requests, health watches, re-read addresses and
cancellation are what an event loop is for; blocking callers hand it their call and wait.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, NoReturn, TypedDict, TypeVar, Unpack

from teacher_service import codec
from teacher_service.addresses import Lookup
from teacher_service.async_client import AsyncTeacherClient
from teacher_service.candidates import TokenTable
from teacher_service.errors import TeacherUnavailable
from teacher_service.loop_thread import LoopThread
from teacher_service.replies import ReplicaReport
from teacher_service.requests import Ids

T = TypeVar("T")


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of both clients; see :class:`AsyncTeacherClient` for each."""

    attempt_timeout_s: float
    generate_attempt_timeout_s: float
    timeout_s: float
    expected_fingerprint: str | None
    expected_revision: str | None
    token: str | None
    root_certificates: bytes | None
    client_certificate: bytes | None
    client_key: bytes | None
    refresh_s: float
    lookup: Lookup
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]


class TeacherClient:
    """Asks one teacher; safe to share between threads, cheap to build (connects on first use).

    It holds connections and a thread, so it belongs to the process that built it: neither pickling
    nor forking carries it over.

    Args:
        address: ``HOST:PORT``, ``unix:PATH`` or ``file:/PATH``, or several.
        options: keyword arguments, as of :class:`AsyncTeacherClient`.

    Raises:
        TeacherRefused: no address.
    """

    def __init__(self, address: str | Sequence[str], **options: Unpack[ClientOptions]) -> None:
        self._client = AsyncTeacherClient(address, **options)
        self.address = self._client.address
        self._guard = threading.Lock()
        self._loop: LoopThread | None = None
        self._calls: set[Future[Any]] = set()
        self._closed = False

    def model_info(self) -> codec.ModelInfo:
        """What the teacher is now, asked anew at every call. Raises as :meth:`score` does."""
        return self._run(self._client.model_info)

    def replicas(self) -> list[ReplicaReport]:
        """What every replica says of itself now, or why it does not within five seconds."""
        return self._run(self._client.replicas)

    def score(
        self,
        sources: Sequence[Ids],
        targets: Sequence[Ids],
        payload: codec.PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Sequence[TokenTable] | None = None,
    ) -> codec.ScoreResult:
        """The teacher's distributions along ``targets``: see :meth:`AsyncTeacherClient.score`.

        Raises:
            TeacherRefused, TeacherMismatch, TeacherUnavailable, TeacherTimeout, TeacherFailed,
            TeacherDenied, TeacherProtocolError
        """
        return self._run(
            lambda: self._client.score(
                sources, targets, payload, temperature=temperature, candidates=candidates
            )
        )

    def generate(
        self,
        sources: Sequence[Ids],
        mode: codec.Greedy | codec.Sample | codec.Beam,
        *,
        limit: codec.LengthLimit | None = None,
        prefixes: Sequence[Ids] | None = None,
        keys: Sequence[int] | None = None,
        request_size: int = 32,
    ) -> list[list[codec.GeneratedHypothesis]]:
        """Targets written by the teacher, best first per source: see
        :meth:`AsyncTeacherClient.generate`. Raises as :meth:`score` does."""
        return self._run(
            lambda: self._client.generate(
                sources,
                mode,
                limit=limit,
                prefixes=prefixes,
                keys=keys,
                request_size=request_size,
            )
        )

    def artifact(self, kind: str = "tokenizer") -> dict[str, bytes]:
        """Files of the teacher by their relative names, checked against their hashes.

        Raises:
            TeacherRefused: this teacher does not offer ``kind``.
            TeacherProtocolError: a piece is missing, a hash differs, or a name leaves its folder.
        """
        return self._run(lambda: self._client.artifact(kind))

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when a replica answers and no other disagrees: see
        :meth:`AsyncTeacherClient.wait_ready`.

        Raises:
            TeacherUnavailable, TeacherMismatch, TeacherDenied
        """
        self._run(lambda: self._client.wait_ready(timeout_s))

    def close(self) -> None:
        """Close the channels; calls under way end with TeacherUnavailable."""
        with self._guard:
            self._closed = True
            loop, self._loop = self._loop, None
            calls = list(self._calls)
        if loop is None or not loop.alive:
            return
        for call in calls:
            call.cancel()
        loop.submit(self._client.close()).result()

    def __enter__(self) -> TeacherClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TeacherClient holds connections; build one in each process")

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for a call on the loop; whatever ends the wait ends the call."""
        with self._guard:
            if self._closed:
                raise TeacherUnavailable(f"{self.address}: the client was closed")
            if self._loop is None:
                self._loop = LoopThread.shared()
            if not self._loop.alive:
                raise TeacherUnavailable(
                    f"{self.address}: the client was made in another process; build one in each"
                )
            call = self._loop.submit(make())
            self._calls.add(call)
        try:
            return call.result()
        except CancelledError:
            raise TeacherUnavailable(f"{self.address}: the client was closed") from None
        except BaseException:
            call.cancel()  # an interrupted wait leaves no request behind
            raise
        finally:
            with self._guard:
                self._calls.discard(call)
