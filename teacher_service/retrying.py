"""Bounded retries of our own over gRPC calls (gRPC's are off): which fault, how often, how long.

One attempt has a deadline, the whole has another. Scoring is pure, so a repeated attempt loses
nothing and doubles nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from teacher_service.errors import (
    TeacherDenied,
    TeacherError,
    TeacherFailed,
    TeacherMismatch,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)

T = TypeVar("T")

PUSHBACK_KEY = "grpc-retry-pushback-ms"
_Code = grpc.StatusCode

# Faults no repetition mends, and what the caller sees.
_FINAL: dict[grpc.StatusCode, type[TeacherError]] = {
    _Code.INVALID_ARGUMENT: TeacherRefused,
    _Code.OUT_OF_RANGE: TeacherRefused,
    _Code.UNIMPLEMENTED: TeacherRefused,
    _Code.NOT_FOUND: TeacherRefused,
    _Code.FAILED_PRECONDITION: TeacherMismatch,
    _Code.UNAUTHENTICATED: TeacherDenied,
    _Code.PERMISSION_DENIED: TeacherDenied,
}


@dataclass
class Retrying:
    """Runs attempts until one succeeds, a final fault comes, or the overall deadline is near.

    Attributes:
        attempt_timeout_s: deadline of one attempt.
        timeout_s: overall deadline, waits included.
        first_wait_s, longest_wait_s: exponential backoff, half of each wait is random.
        clock, sleep, random: injected in tests.
    """

    attempt_timeout_s: float
    timeout_s: float
    first_wait_s: float = 0.05
    longest_wait_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = field(default=random.random)

    def call(
        self,
        what: str,
        attempt: Callable[[float], T],
        *,
        attempt_timeout_s: float | None = None,
        timeout_s: float | None = None,
        longest_wait_s: float | None = None,
    ) -> T:
        """``attempt(timeout_s)`` until it returns.

        Args:
            what: names the call in messages, address included.

        Raises:
            TeacherRefused, TeacherMismatch, TeacherDenied: at once.
            TeacherFailed: INTERNAL twice, or a fault outside the contract.
            TeacherTimeout, TeacherUnavailable: the overall deadline ran out.
        """
        overall = self.timeout_s if timeout_s is None else timeout_s
        each = self.attempt_timeout_s if attempt_timeout_s is None else attempt_timeout_s
        deadline = self.clock() + overall
        tries = failures = 0
        while True:
            tries += 1
            try:
                return attempt(max(0.001, min(each, deadline - self.clock())))
            except grpc.RpcError as error:
                code = error.code()
                failures += code is _Code.INTERNAL
                wait = self._wait(what, error, tries, failures)
                if longest_wait_s is not None:
                    wait = min(wait, longest_wait_s)
                last = error
            if self.clock() + wait >= deadline:
                raise _gave_up(what, last, tries, overall) from last
            self.sleep(wait)

    def _wait(self, what: str, error: grpc.RpcError, tries: int, failures: int) -> float:
        """Seconds until the next attempt; raises where there must be none."""
        code = error.code()
        if code is _Code.UNIMPLEMENTED and _answers_nobody(error):
            raise TeacherRefused(
                f"{what}: what answers there is no teacher of this contract ({_details(error)}); "
                "check the address"
            ) from error
        if code in _FINAL:
            raise _FINAL[code](f"{what}: {_details(error)}") from error
        pushback = _pushback_s(error)
        if code is _Code.RESOURCE_EXHAUSTED:
            if pushback is None:
                raise TeacherRefused(
                    f"{what}: {_details(error)} (a message is too large for one side; send fewer "
                    "sequences at once)"
                ) from error
            return pushback * (1 + 0.5 * self.random())
        if code is _Code.INTERNAL and failures > 1:
            raise TeacherFailed(f"{what}: {_details(error)}") from error
        if code not in (_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.INTERNAL):
            raise TeacherFailed(f"{what}: {code.name}: {_details(error)}") from error
        wait = min(self.longest_wait_s, self.first_wait_s * 2 ** min(tries - 1, 20))
        return wait * (0.5 + 0.5 * self.random())


def _gave_up(what: str, error: grpc.RpcError, tries: int, overall: float) -> TeacherUnavailable:
    timed_out = error.code() is _Code.DEADLINE_EXCEEDED
    kind = TeacherTimeout if timed_out else TeacherUnavailable
    return kind(
        f"{what}: gave up after {tries} attempts in {overall:g} s ({error.code().name}: "
        f"{_details(error)}); check that the teacher runs and is reachable, or raise the timeout"
    )


def _answers_nobody(error: grpc.RpcError) -> bool:
    """Whether a server without our service, or a proxy, said so; a teacher says it otherwise."""
    details = _details(error)
    return "Method not found" in details or "unknown service" in details or "http2" in details


def _details(error: grpc.RpcError) -> str:
    return " ".join((error.details() or "no detail given").split())


def _pushback_s(error: grpc.RpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK_KEY:
            try:
                return max(0, int(value)) / 1000
            except ValueError:
                return None
    return None
