"""Which faults are retried, where, how long, and what the caller finally sees."""

from __future__ import annotations

import pickle

import pytest

from teacher_service import errors
from teacher_service.addresses import Endpoint
from teacher_service.replicas import Replicas
from teacher_service.retrying import Attempt, Fault, Retrying, Wait

FOREVER = 10_000


class World:
    """A clock that waiting and attempts move, and replicas that answer as told.

    ``script[name]`` lists what a replica does, its last entry for ever: a fault, or None for an
    answer. An attempt costs ``cost[name]`` seconds, at most its deadline.
    """

    def __init__(self, script: dict[str, list[Fault | None]], **cost: float) -> None:
        self.now = 0.0
        self.script, self.cost = script, cost
        self.replicas = Replicas(lambda: self.now)
        self.replicas.replace([Endpoint(name) for name in script])
        self.asked: list[tuple[str, float]] = []
        self.waits: list[float] = []

    def call(self, attempt_s: float = 30.0, overall_s: float = 300.0, random: float = 0.0) -> str:
        plan = Retrying(
            "Score",
            self.replicas,
            attempt_timeout_s=attempt_s,
            timeout_s=overall_s,
            clock=lambda: self.now,
            random=lambda: random,
        )
        for _ in range(FOREVER):
            step = plan.next("no such name")
            if isinstance(step, Wait):
                self.waits.append(step.seconds)
                self.now += step.seconds
            elif self.attempt(plan, step):
                return str(step.replica)
        raise AssertionError("it never ends")

    def attempt(self, plan: Retrying, step: Attempt) -> bool:
        name = str(step.replica)
        self.asked.append((name, step.timeout_s))
        self.replicas.begin(step.replica, 10)
        self.now += min(self.cost.get(name, 0.0), step.timeout_s)
        self.replicas.end(step.replica, 10)
        faults = self.script[name]
        fault = faults.pop(0) if len(faults) > 1 else faults[0]
        if fault is None:
            plan.succeeded(step.replica)
            return True
        plan.failed(step.replica, fault)
        return False

    @property
    def order(self) -> str:
        return "".join(name for name, _ in self.asked)


def fault(code: str, pushback_s: float | None = None, details: str = "why") -> Fault:
    return Fault(code, details, pushback_s)


DOWN = fault("UNAVAILABLE")


# -------------------------------------------------------------------------------------- one replica


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.TeacherRefused),
        ("UNIMPLEMENTED", errors.TeacherRefused),
        ("UNAUTHENTICATED", errors.TeacherDenied),
        ("PERMISSION_DENIED", errors.TeacherDenied),
        ("RESOURCE_EXHAUSTED", errors.TeacherRefused),
        ("DATA_LOSS", errors.TeacherFailed),
    ],
)
def test_final_faults_are_raised_at_once_and_nobody_else_is_asked(code, kind):
    world = World({"a": [fault(code)], "b": [None]})
    with pytest.raises(kind, match=r"a Score.*why"):
        world.call()
    assert world.order == "a" and world.waits == []


def test_a_replica_of_another_model_is_passed_over_and_not_asked_again():
    world = World({"a": [fault("FAILED_PRECONDITION")], "b": [None]})
    assert [world.call(), world.call(), world.call()] == ["b", "b", "b"]
    assert world.order == "abbb" and world.waits == []


def test_where_all_are_of_another_model_each_was_asked_and_the_call_ends_at_once():
    world = World({"a": [fault("FAILED_PRECONDITION")], "b": [fault("FAILED_PRECONDITION")]})
    for _ in range(2):  # asked again: they may have been exchanged meanwhile
        with pytest.raises(errors.TeacherMismatch, match=r"[ab] Score.*why"):
            world.call()
    assert world.order.startswith("ab") and world.waits == []


def test_one_of_another_model_is_not_asked_in_the_place_of_one_that_is_away():
    world = World({"a": [fault("FAILED_PRECONDITION")], "b": [DOWN, DOWN, DOWN, None]})
    assert world.call() == "b"
    assert world.order == "abbbb" and len(world.waits) == 3


def test_unavailable_is_retried_with_growing_waits():
    world = World({"a": [*[DOWN] * 8, None]})
    assert world.call() == "a"
    assert world.waits == pytest.approx([0.03, 0.06, 0.12, 0.24, 0.48, 0.96, 1.0, 1.0])


def test_waits_spread_by_up_to_half_as_much_again():
    world = World({"a": [DOWN, None]})
    world.call(random=1.0)
    assert world.waits == pytest.approx([0.045])


def test_pushback_is_honoured():
    world = World({"a": [fault("RESOURCE_EXHAUSTED", 0.4), None]})
    assert world.call(random=1.0) == "a"
    assert world.waits == pytest.approx([0.6])


def test_internal_is_retried_once():
    assert World({"a": [fault("INTERNAL"), None]}).call() == "a"
    world = World({"a": [fault("INTERNAL")]})
    with pytest.raises(errors.TeacherFailed):
        world.call()
    assert world.order == "aa"


def test_a_call_the_server_cut_off_is_asked_again():
    world = World({"a": [fault("CANCELLED"), None]})
    assert world.call() == "a"


def test_the_overall_deadline_bounds_attempts_and_waits():
    world = World({"a": [fault("DEADLINE_EXCEEDED")]}, a=4.0)
    with pytest.raises(errors.TeacherTimeout, match="gave up after 3 attempts in 10 s"):
        world.call(attempt_s=4.0, overall_s=10.0)
    assert [t for _, t in world.asked[:2]] == [4.0, 4.0]
    assert world.asked[2][1] < 2.0
    assert world.now <= 10.0


def test_an_absent_teacher_is_named_with_its_remedy():
    world = World({"host:1": [fault("UNAVAILABLE", details="connection refused")]})
    with pytest.raises(errors.TeacherUnavailable) as caught:
        world.call(overall_s=3.0)
    message = str(caught.value)
    assert "host:1 Score: gave up" in message
    assert "connection refused" in message
    assert "check that the teacher runs" in message
    assert "\n" not in message


def test_no_replica_at_all_is_told_with_the_reason():
    world = World({})
    with pytest.raises(errors.TeacherUnavailable, match=r"no such name.*check that the teacher"):
        world.call(overall_s=2.0)
    assert world.now <= 2.0


# --------------------------------------------------------------------------------- several replicas


def test_a_dead_replica_costs_no_wait_where_another_lives():
    world = World({"a": [DOWN], "b": [None]})
    assert world.call() == "b"
    assert world.order == "ab" and world.waits == []


def test_a_dead_replica_is_asked_less_and_less():
    """A thousand calls of 10 ms: some ten of them meet the dead one, not every second."""
    world = World({"a": [DOWN], "b": [None]}, b=0.01)
    for _ in range(1000):
        assert world.call() == "b"
    assert world.order.count("b") == 1000
    assert 5 <= world.order.count("a") <= 16


def test_a_replica_that_pushes_back_is_left_alone_while_others_are_asked():
    world = World({"a": [fault("RESOURCE_EXHAUSTED", 1.0), None], "b": [None]}, b=0.1)
    for _ in range(12):
        world.call()
    assert world.waits == []
    assert world.order[:11] == "ab" + "b" * 9
    assert "a" in world.order[11:]


def test_where_all_push_back_the_soonest_is_waited_for():
    world = World(
        {
            "a": [fault("RESOURCE_EXHAUSTED", 3.0), None],
            "b": [fault("RESOURCE_EXHAUSTED", 0.5), None],
        }
    )
    assert world.call() == "b"
    assert world.waits == pytest.approx([0.5])


def test_a_request_that_expired_in_a_queue_goes_to_another_replica():
    world = World({"a": [fault("DEADLINE_EXCEEDED")], "b": [None]}, a=30.0)
    assert world.call() == "b"
    assert world.order == "ab" and world.now == pytest.approx(30.0)


def test_a_hanging_replica_leaves_half_of_the_time_to_the_others():
    world = World({"a": [fault("DEADLINE_EXCEEDED")], "b": [None]}, a=1e9)
    assert world.call(attempt_s=60.0, overall_s=20.0) == "b"
    assert world.asked == [("a", 10.0), ("b", 10.0)]


def test_many_hanging_replicas_are_passed_within_the_overall_deadline():
    hanging = {name: [fault("DEADLINE_EXCEEDED")] for name in "abc"}
    world = World({**hanging, "d": [None]}, a=1e9, b=1e9, c=1e9)
    assert world.call(attempt_s=60.0, overall_s=16.0) == "d"
    assert [t for _, t in world.asked] == pytest.approx([8.0, 4.0, 2.0, 2.0])


def test_a_lone_replica_may_use_all_the_time_there_is():
    world = World({"a": [None]})
    world.call(attempt_s=60.0, overall_s=20.0)
    assert world.asked == [("a", 20.0)]


def test_internal_is_retried_once_elsewhere():
    world = World({"a": [fault("INTERNAL")], "b": [None], "c": [None]})
    assert world.call() == "b"
    world = World({name: [fault("INTERNAL")] for name in "abc"})
    with pytest.raises(errors.TeacherFailed, match="b Score: why"):
        world.call()
    assert world.order == "ab"


def test_a_poisoned_request_does_not_close_a_replica_to_others():
    world = World({"a": [fault("INTERNAL"), fault("INTERNAL"), None]})
    with pytest.raises(errors.TeacherFailed):
        world.call()
    assert world.call() == "a" and world.waits == []


def test_all_replicas_down_is_told_with_their_number():
    world = World({"a": [DOWN], "b": [DOWN]})
    with pytest.raises(errors.TeacherUnavailable, match=r"at 2 replicas in 5 s \(UNAVAILABLE"):
        world.call(overall_s=5.0)
    assert world.now <= 5.0 and {"a", "b"} == set(world.order)


@pytest.mark.parametrize(
    "kind", [errors.TeacherError, *errors.TeacherError.__subclasses__(), errors.TeacherTimeout]
)
def test_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("one line")))
    assert type(again) is kind
    assert str(again) == "one line"
