"""Channels to the replicas of one teacher, on one event loop: the thin shell around the policy.

``replicas`` knows whom to ask and ``retrying`` what to do after a fault; here are the channels, the
health watches, the reading of addresses, and the loop that carries a request from attempt to
attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.teacher.v1 import teacher_pb2, teacher_pb2_grpc
from teacher_service.addresses import AddressBook
from teacher_service.channel import Credentials, open_aio_channel
from teacher_service.errors import TeacherError, TeacherMismatch, TeacherUnavailable
from teacher_service.replicas import Replica, Replicas
from teacher_service.retrying import MISMATCH, PUSHBACK_KEY, Fault, Retrying, Wait, error_of

T = TypeVar("T")

SERVICE = teacher_pb2.DESCRIPTOR.services_by_name["TeacherService"].full_name
# After a replica failed, addresses are read again so soon.
_READ_SOON_S = 1.0
_WATCH_AGAIN_S = 1.0
# A replica that cannot say who it is within this time is not waited for.
REPORT_S = 5.0

_log = logging.getLogger("teacher_service.client")


@dataclass(eq=False)
class Line:
    """The channel to one replica, and what goes with it.

    Attributes:
        metadata: rides in every call.
        watch: of the replica's health, where there are several.
        meeting: under way while the replica is asked who it is.
    """

    replica: Replica
    channel: grpc.aio.Channel
    stub: teacher_pb2_grpc.TeacherServiceStub
    metadata: tuple[tuple[str, str], ...]
    watch: asyncio.Task[None] | None = None
    meeting: asyncio.Task[Fault | None] | None = None

    @property
    def address(self) -> str:
        return str(self.replica)


# One attempt: over this line, within so many seconds.
Send = Callable[[Line, float], Awaitable[T]]


class Fleet:
    """Carries requests to the replicas.

    Args:
        meet: asks a replica who it is, before anything else is asked of it; raises TeacherMismatch
            where it is the wrong one.
        refresh_s: how often addresses that may change are read again, while there are calls.
        clock, sleep, random: injected in tests.
    """

    def __init__(
        self,
        book: AddressBook,
        credentials: Credentials,
        meet: Send[object],
        *,
        refresh_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self.replicas = Replicas(clock, random)
        self._book = book
        self._credentials = credentials
        self._meet = meet
        self._refresh_s = refresh_s
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._lines: dict[Replica, Line] = {}
        self._next_reading = clock()
        self._reading: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        # Channels belong to the loop that they were opened on.
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(
        self,
        method: str,
        send: Send[T],
        *,
        tokens: int,
        attempt_timeout_s: float,
        timeout_s: float,
        meets: bool = False,
    ) -> T:
        """``send`` until it returns.

        Args:
            tokens: what the request weighs among the outstanding ones of its replica.
            meets: ``send`` is itself the question who a replica is.

        Raises:
            TeacherError: see :class:`Retrying`; and what ``send`` raises itself.
        """
        plan = Retrying(
            method,
            self.replicas,
            attempt_timeout_s=attempt_timeout_s,
            timeout_s=timeout_s,
            clock=self._clock,
            random=self._random,
        )
        while True:
            await self._read_addresses(plan.remaining_s)
            step = plan.next(self._book.trouble)
            if isinstance(step, Wait):
                await self._sleep(step.seconds)
                continue
            outcome: T | Fault | None = None
            if not meets and not step.replica.admitted:
                outcome = await self._met(step.replica, step.timeout_s, tokens)
            if outcome is None:
                left_s = max(0.0, min(step.timeout_s, plan.remaining_s))
                outcome = await self._attempt(step.replica, send, left_s, tokens)
            if not isinstance(outcome, Fault):
                step.replica.admitted = True
                plan.succeeded(step.replica)
                return outcome
            if outcome.code == "DEADLINE_EXCEEDED":
                self._suspect(step.replica)
            if outcome.code == MISMATCH and step.replica.admitted is not False:
                _log.warning("%s is not used: %s", step.replica, outcome.details)
            self._next_reading = min(self._next_reading, self._clock() + _READ_SOON_S)
            plan.failed(step.replica, outcome)

    async def ask_each(
        self, method: str, send: Send[T], timeout_s: float
    ) -> dict[str, T | TeacherError]:
        """One attempt at every replica, side by side: by address what it gave, or its fault."""
        await self._read_addresses(timeout_s)

        async def ask(replica: Replica) -> T | TeacherError:
            try:
                outcome = await self._attempt(replica, send, timeout_s, 1)
            except TeacherError as error:
                return error
            if isinstance(outcome, Fault):
                return error_of(f"{replica} {method}", outcome)
            return outcome

        members = list(self.replicas)
        answers = await asyncio.gather(*(ask(replica) for replica in members))
        return {str(r): answer for r, answer in zip(members, answers, strict=True)}

    async def close(self) -> None:
        """Close all channels; calls under way end with TeacherUnavailable."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        for line in list(self._lines.values()):
            self._hang_up(line)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _attempt(
        self, replica: Replica, send: Send[T], timeout_s: float, tokens: int
    ) -> T | Fault:
        """One attempt; counted as outstanding while it lasts."""
        line = self._lines.get(replica)
        if line is None:
            return Fault("UNAVAILABLE", "it left the replicas")
        self.replicas.begin(replica, tokens)
        try:
            return await send(line, timeout_s)
        except grpc.aio.AioRpcError as error:
            return fault_of(error)
        except TeacherMismatch as error:
            return Fault(MISMATCH, str(error))
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            self.replicas.end(replica, tokens)
            if replica.left and not replica.calls:
                self._hang_up(line)

    async def _met(self, replica: Replica, timeout_s: float, tokens: int) -> Fault | None:
        """Ask a replica who it is, once for all requests that wait for it; None: the right one."""
        line = self._lines.get(replica)
        if line is None:
            return Fault("UNAVAILABLE", "it left the replicas")
        meeting = line.meeting = line.meeting or asyncio.create_task(self._introduced(line))
        self.replicas.begin(replica, tokens)  # what waits weighs too
        try:
            await asyncio.wait({meeting}, timeout=timeout_s)
        finally:
            self.replicas.end(replica, tokens)
            if replica.left and not replica.calls:
                self._hang_up(line)
        if not meeting.done():
            return Fault("DEADLINE_EXCEEDED", "it did not say in time who it is")
        return meeting.result()

    async def _introduced(self, line: Line) -> Fault | None:
        try:
            outcome = await self._attempt(line.replica, self._meet, REPORT_S, 1)
        finally:
            line.meeting = None
        if isinstance(outcome, Fault):
            return outcome
        line.replica.admitted = True
        return None

    def _raise_if_closed(self) -> None:
        """Closing a channel cancels its calls: not the same as a caller who cancels his task."""
        task = asyncio.current_task()
        if self._closed and not (task is not None and task.cancelling()):
            raise TeacherUnavailable(f"{self._book}: the client was closed")

    # -------------------------------------------------------------------------------- addresses

    async def _read_addresses(self, patience_s: float) -> None:
        """Read the addresses where it is time to; wait for it only where nobody is known."""
        self._raise_if_closed()
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if self._loop is not running:
            raise TeacherUnavailable(
                f"{self._book}: the client was used on another event loop; build one in each"
            )
        if self._clock() >= self._next_reading and self._reading is None:
            self._next_reading = self._clock() + self._refresh_s
            self._reading = asyncio.create_task(self._read_once())
        if self._reading is not None and not self.replicas:
            await asyncio.wait({self._reading}, timeout=patience_s)

    async def _read_once(self) -> None:
        try:
            endpoints = await self._book.read()
            if not self._book.may_change:
                self._next_reading = float("inf")
            self._adopt(*self.replicas.replace(endpoints))
            if not endpoints:  # whoever is calling will tell why
                self._next_reading = self._clock() + _READ_SOON_S
            elif self._book.trouble:
                _log.warning("%s; its last answer holds", self._book.trouble)
        finally:
            self._reading = None

    def _adopt(self, joined: list[Replica], left: list[Replica]) -> None:
        for replica in joined:
            channel = open_aio_channel(replica.endpoint, self._credentials)
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            self._lines[replica] = Line(replica, channel, stub, self._credentials.metadata)
        for replica in left:
            _log.info("%s left the replicas", replica)
            if not replica.calls:
                self._hang_up(self._lines[replica])
        if len(self.replicas) > 1:
            for replica in self.replicas:
                line = self._lines[replica]
                line.watch = line.watch or asyncio.create_task(self._watch(line))

    def _hang_up(self, line: Line) -> None:
        if self._lines.pop(line.replica, None) is None:
            return
        if line.watch is not None:
            line.watch.cancel()
        closing = asyncio.create_task(line.channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # ----------------------------------------------------------------------------------- health

    def _suspect(self, replica: Replica) -> None:
        """It kept a request too long. A new watch is answered at once by whatever is alive; until
        then others are asked."""
        line = self._lines.get(replica)
        if line is None or line.watch is None or line.watch.done() or replica.serving is False:
            return
        line.watch.cancel()
        self._hear(replica, False)
        line.watch = asyncio.create_task(self._watch(line))

    async def _watch(self, line: Line) -> None:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        stub = health_pb2_grpc.HealthStub(line.channel)
        while True:
            call = stub.Watch(request, wait_for_ready=True)
            try:
                async for reply in call:
                    self._hear(line.replica, reply.status != reply.NOT_SERVING)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._hear(line.replica, True)  # it has no health to tell: calls will show
                    return
            finally:
                call.cancel()
            self._hear(line.replica, False)
            await asyncio.sleep(_WATCH_AGAIN_S)

    def _hear(self, replica: Replica, serving: bool) -> None:
        if replica.serving is not serving:
            level = logging.INFO if serving else logging.WARNING
            _log.log(level, "%s %s", replica, "serves" if serving else "does not serve")
        self.replicas.heard(replica, serving)


def fault_of(error: grpc.aio.AioRpcError) -> Fault:
    """The policy's view of a gRPC error, on one line."""
    pushback = None
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK_KEY:
            try:
                pushback = max(0, int(value)) / 1000
            except ValueError:
                pushback = None
    return Fault(error.code().name, " ".join((error.details() or "").split()), pushback)
