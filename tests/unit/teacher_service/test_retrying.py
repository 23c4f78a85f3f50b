"""Which faults are retried, how long, and what the caller finally sees."""

from __future__ import annotations

import pickle

import grpc
import pytest

from teacher_service import errors
from teacher_service.retrying import Retrying

Code = grpc.StatusCode


class Fault(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "why", pushback: str | None = None):
        self._parts = code, details, pushback

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self):
        return () if self._parts[2] is None else (("grpc-retry-pushback-ms", self._parts[2]),)


class World:
    """A clock that sleeping moves, and attempts that fail as told."""

    def __init__(self, *faults: grpc.RpcError | None, cost: float = 0.0) -> None:
        self.now, self.faults, self.cost = 0.0, list(faults), cost
        self.sleeps: list[float] = []
        self.timeouts: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def attempt(self, timeout: float) -> str:
        self.timeouts.append(timeout)
        self.now += min(self.cost, timeout)
        fault = self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        if fault is not None:
            raise fault
        return "answer"

    def retrying(self, attempt_s: float = 30.0, overall_s: float = 300.0) -> Retrying:
        return Retrying(
            attempt_s, overall_s, clock=lambda: self.now, sleep=self.sleep, random=lambda: 1.0
        )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, errors.TeacherRefused),
        (Code.UNIMPLEMENTED, errors.TeacherRefused),
        (Code.FAILED_PRECONDITION, errors.TeacherMismatch),
        (Code.UNAUTHENTICATED, errors.TeacherDenied),
        (Code.PERMISSION_DENIED, errors.TeacherDenied),
        (Code.RESOURCE_EXHAUSTED, errors.TeacherRefused),
        (Code.DATA_LOSS, errors.TeacherFailed),
    ],
)
def test_final_faults_are_raised_at_once(code, kind):
    world = World(Fault(code))
    with pytest.raises(kind, match=r"here Score.*why"):
        world.retrying().call("here Score", world.attempt)
    assert world.sleeps == []


def test_unavailable_is_retried_with_growing_waits():
    world = World(*[Fault(Code.UNAVAILABLE)] * 8, None)
    assert world.retrying().call("x", world.attempt) == "answer"
    assert world.sleeps == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_pushback_is_honoured():
    world = World(Fault(Code.RESOURCE_EXHAUSTED, pushback="400"), None)
    assert world.retrying().call("x", world.attempt) == "answer"
    assert world.sleeps == pytest.approx([0.6])  # and half as much again at random


def test_an_unreadable_pushback_counts_as_none():
    world = World(Fault(Code.RESOURCE_EXHAUSTED, pushback="soon"), None)
    with pytest.raises(errors.TeacherRefused, match="too large"):
        world.retrying().call("x", world.attempt)


def test_internal_is_retried_once():
    world = World(Fault(Code.INTERNAL), None)
    assert world.retrying().call("x", world.attempt) == "answer"
    world = World(Fault(Code.INTERNAL))
    with pytest.raises(errors.TeacherFailed):
        world.retrying().call("x", world.attempt)
    assert len(world.timeouts) == 2


def test_the_overall_deadline_bounds_attempts_and_waits():
    world = World(Fault(Code.DEADLINE_EXCEEDED), cost=4.0)
    with pytest.raises(errors.TeacherTimeout, match="gave up after 3 attempts in 10 s"):
        world.retrying(attempt_s=4.0, overall_s=10.0).call("x", world.attempt)
    assert world.timeouts[:2] == [4.0, 4.0]
    assert world.timeouts[2] < 2.0
    assert world.now <= 10.0


def test_an_absent_teacher_is_named_with_its_remedy():
    world = World(Fault(Code.UNAVAILABLE, "connection\n refused"))
    with pytest.raises(errors.TeacherUnavailable) as caught:
        world.retrying(overall_s=3.0).call("host:1 Score", world.attempt)
    message = str(caught.value)
    assert "host:1 Score: gave up" in message
    assert "connection refused" in message
    assert "check that the teacher runs" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "kind", [errors.TeacherError, *errors.TeacherError.__subclasses__(), errors.TeacherTimeout]
)
def test_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("one line")))
    assert type(again) is kind
    assert str(again) == "one line"
