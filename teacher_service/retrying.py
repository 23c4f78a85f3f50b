"""One request's way to an answer: whom to ask, how long, what after a fault. Pure: no gRPC, no I/O.

One attempt has a deadline, the request with all its attempts and waits has another. Scoring is
pure, so a repeated attempt loses nothing and doubles nothing: only the answer of the attempt that
succeeded is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teacher_service.errors import (
    TeacherDenied,
    TeacherError,
    TeacherFailed,
    TeacherMismatch,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from teacher_service.replicas import Replica, Replicas

PUSHBACK_KEY = "grpc-retry-pushback-ms"
# The replica serves another model than the request expects.
MISMATCH = "FAILED_PRECONDITION"

# Faults no repetition mends, and what the caller sees.
_FINAL: dict[str, type[TeacherError]] = {
    "INVALID_ARGUMENT": TeacherRefused,
    "OUT_OF_RANGE": TeacherRefused,
    "UNIMPLEMENTED": TeacherRefused,
    "NOT_FOUND": TeacherRefused,
    MISMATCH: TeacherMismatch,
    "UNAUTHENTICATED": TeacherDenied,
    "PERMISSION_DENIED": TeacherDenied,
}
# Faults of the replica, not of the request. CANCELLED is a server that cuts calls off at its end.
_ELSEWHERE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


@dataclass(frozen=True)
class Fault:
    """How an attempt failed.

    Attributes:
        code: name of the gRPC status.
        pushback_s: when the replica wants to be asked again; None: it did not say.
    """

    code: str
    details: str = ""
    pushback_s: float | None = None


@dataclass(frozen=True)
class Attempt:
    """Ask ``replica``, for at most ``timeout_s``."""

    replica: Replica
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    """Nobody can be asked for so many seconds."""

    seconds: float


class Retrying:
    """Attempts until one succeeds, a final fault comes, or the overall deadline is near.

    Args:
        method: names the call in messages.
        attempt_timeout_s: deadline of one attempt. While another replica could still be asked, an
            attempt takes at most half of what remains, so that one that hangs leaves time for it.
        timeout_s: overall deadline, waits included.
        clock: seconds, monotonic.
        random: uniform in 0 .. 1; waits are up to half as long again, so that clients spread.
    """

    def __init__(
        self,
        method: str,
        replicas: Replicas,
        *,
        attempt_timeout_s: float,
        timeout_s: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._method = method
        self._replicas = replicas
        self._attempt_timeout_s = attempt_timeout_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._random = random
        self._deadline = clock() + timeout_s
        self._tried: set[Replica] = set()
        self._attempts = self._internal = 0
        self._last: tuple[Replica, Fault] | None = None

    @property
    def remaining_s(self) -> float:
        return self._deadline - self._clock()

    def next(self, trouble: str = "") -> Attempt | Wait:
        """What to do now.

        Args:
            trouble: why there may be no replica, for the message.

        Raises:
            TeacherTimeout, TeacherUnavailable: the overall deadline ran out.
        """
        remaining = self.remaining_s
        replica = self._replicas.choose(self._tried)
        if replica is not None and remaining > 0:
            self._attempts += 1
            others = self._replicas.another_than(self._tried | {replica})
            share = remaining / 2 if others else remaining
            return Attempt(replica, min(self._attempt_timeout_s, share))
        wait = self._replicas.opens_in() * (1 + 0.5 * self._random())
        if wait >= remaining:
            raise self._gave_up(trouble)
        return Wait(wait)

    def succeeded(self, replica: Replica) -> None:
        self._replicas.answered(replica)

    def failed(self, replica: Replica, fault: Fault) -> None:
        """Take note; returns where another attempt may mend it.

        Raises:
            TeacherRefused, TeacherDenied: at once.
            TeacherMismatch: no other replica is left that may serve the right model.
            TeacherFailed: INTERNAL twice, or a fault outside the contract.
        """
        self._tried.add(replica)
        self._last = replica, fault
        self._internal += fault.code == "INTERNAL"
        if fault.code == MISMATCH:
            self._replicas.refuse(replica)
            if not self._replicas.all_refused:
                return
        if fault.code == "RESOURCE_EXHAUSTED" and fault.pushback_s is not None:
            self._replicas.leave_alone(replica, fault.pushback_s)
        elif fault.code in _ELSEWHERE:
            self._replicas.stumbled(replica)
        elif fault.code != "INTERNAL" or self._internal > 1:
            raise error_of(f"{replica} {self._method}", fault)

    def _gave_up(self, trouble: str) -> TeacherUnavailable:
        """The error with the last fault and the remedy."""
        timed_out = self._last is not None and self._last[1].code == "DEADLINE_EXCEEDED"
        kind = TeacherTimeout if timed_out else TeacherUnavailable
        if self._last is None:
            place, reason = "teacher", trouble or "no replica to ask"
        else:
            place, reason = str(self._last[0]), _told(self._last[1])
        among = f" at {len(self._replicas)} replicas" if len(self._replicas) > 1 else ""
        return kind(
            f"{place} {self._method}: gave up after {self._attempts} attempts{among} in "
            f"{self._timeout_s:g} s ({reason}); check that the teacher runs and is reachable, or "
            "raise the timeout"
        )


def error_of(what: str, fault: Fault) -> TeacherError:
    """What a caller sees of a fault that is not retried.

    Args:
        what: address and method.
    """
    details = fault.details or "no detail given"
    if fault.code == "UNIMPLEMENTED" and _answers_nobody(details):
        return TeacherRefused(
            f"{what}: what answers there is no teacher of this contract ({details}); check the "
            "address"
        )
    if fault.code in _FINAL:
        return _FINAL[fault.code](f"{what}: {details}")
    if fault.code in _ELSEWHERE or fault.pushback_s is not None:
        return TeacherUnavailable(f"{what}: {_told(fault)}")
    if fault.code == "RESOURCE_EXHAUSTED":
        return TeacherRefused(
            f"{what}: {details} (a message is too large for one side; send fewer sequences at once)"
        )
    if fault.code == "INTERNAL":
        return TeacherFailed(f"{what}: {details}")
    return TeacherFailed(f"{what}: {_told(fault)}")


def _told(fault: Fault) -> str:
    return f"{fault.code}: {fault.details or 'no detail given'}"


def _answers_nobody(details: str) -> bool:
    """Whether a server without our service, or a proxy, said so; a teacher says it otherwise."""
    return "Method not found" in details or "unknown service" in details or "http2" in details
