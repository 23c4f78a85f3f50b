"""Lanes, fairness, isolation and delivery of the engine, step by step without its thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from teacher_service.batching import BatchLimits, Entry, Request
from teacher_service.engine import Engine, Lane, Outcome
from teacher_service.refusals import Expired, ModelFailed, QueueFull

LIMITS = BatchLimits(batch_tokens=8, overhead_tokens=1000, queue_requests=100)


class Model:
    """Doubles its items; fails on those in ``poison``; each batch takes ``seconds``."""

    def __init__(self, clock: Clock, seconds: float = 1.0) -> None:
        self.clock, self.seconds = clock, seconds
        self.poison: set[Any] = set()
        self.batches: list[list[Any]] = []

    def __call__(self, group: Any, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.clock.now += self.seconds
        if self.poison & set(items):
            raise ValueError("a secret detail")
        return [item * 2 for item in items]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Caller:
    def __init__(self, *items: Any, deadline: float = float("inf")) -> None:
        self.deliveries: list[list[Outcome]] = []
        entries = [Entry(1, 1, item, i) for i, item in enumerate(items)]
        self.request = Request(entries, "g", deadline=deadline, deliver=self._take)

    def _take(self, outcomes: Any) -> None:
        self.deliveries.append(list(outcomes))

    @property
    def outcomes(self) -> dict[int, Outcome]:
        return {o.index: o for outcomes in self.deliveries for o in outcomes}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def engine_of(clock: Clock, **models: Any) -> Engine:
    return Engine([Lane(name, LIMITS, run, clock) for name, run in models.items()], clock)


def drain(engine: Engine) -> None:
    while engine.step() == 0.0:
        pass


def test_a_request_over_several_batches_is_delivered_whole_and_in_place(clock):
    model = Model(clock)
    engine = engine_of(clock, score=model)
    caller = Caller(1, 2, 3, 4, 5, 6)
    engine.submit("score", caller.request)
    drain(engine)
    assert [len(batch) for batch in model.batches] == [4, 2]
    assert [caller.outcomes[i].value for i in range(6)] == [2, 4, 6, 8, 10, 12]
    assert len(caller.deliveries) == 2
    assert caller.outcomes[5].queue_seconds == 1.0
    assert caller.outcomes[5].compute_seconds == 1.0


def test_a_poisoned_item_fails_alone(clock, caplog):
    model = Model(clock)
    model.poison = {3}
    engine = engine_of(clock, score=model)
    callers = [Caller(item) for item in (1, 2, 3, 4)]
    for caller in callers:
        engine.submit("score", caller.request)
    drain(engine)
    assert [c.outcomes[0].value for c in callers] == [2, 4, None, 8]
    error = callers[2].outcomes[0].error
    assert isinstance(error, ModelFailed)
    assert "secret" not in str(error)
    assert error.incident in caplog.text
    assert "a secret detail" in caplog.text
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1


def test_a_batch_of_which_nothing_came_asks_whether_the_model_still_computes(clock):
    """A broken model is told once; a poisoned request is no broken model."""
    model, told = Model(clock), []
    model.poison = {3}

    def examine() -> None:
        examined.append(len(model.batches))
        if 0 in model.poison:
            raise OSError("an illegal access")

    examined: list[int] = []
    lane = Lane("score", LIMITS, model, clock)
    engine = Engine([lane], clock, examine=examine, broken=told.append)
    for item in (1, 3):  # in company, then alone
        engine.submit("score", Caller(item, 3).request)
        drain(engine)
    assert len(examined) == 1 and told == []
    model.poison = {0, 1, 2, 3}
    for _ in range(3):
        caller = Caller(1)
        engine.submit("score", caller.request)
        drain(engine)
        assert isinstance(caller.outcomes[0].error, ModelFailed)
    assert len(examined) == 2 and [str(error) for error in told] == ["an illegal access"]


def test_work_of_many_steps_ends_when_its_last_caller_goes(clock, caplog):
    """The first of two leaves in the middle of it: it goes on. Then the other: it does not."""
    first, second, third = Caller(1), Caller(2), Caller(3)
    leaving = [first, second]
    asked: list[bool] = []

    def run(group: Any, items: Sequence[Any], wanted: Callable[[], bool]) -> list[Any]:
        while wanted():
            asked.append(True)
            if not leaving:
                return list(items)
            engine.close("generate", leaving.pop(0).request)
        raise RuntimeError("nobody waits")

    reports: list[Any] = []
    lane = Lane("generate", LIMITS, run, clock, asks=True)
    engine = Engine([lane], clock, report=reports.append)
    for caller in (first, second):
        engine.submit("generate", caller.request)
    drain(engine)
    assert asked == [True, True] and first.deliveries == second.deliveries == []
    assert reports[-1].ends == {"computed": 0, "failed": 0, "dropped": 2}
    engine.submit("generate", third.request)
    drain(engine)
    assert third.outcomes[0].value == 3
    assert caplog.records == []


def test_a_model_that_fails_while_somebody_waits_is_at_fault(clock):
    def run(group: Any, items: Sequence[Any], wanted: Callable[[], bool]) -> list[Any]:
        raise RuntimeError("it broke")

    engine = Engine([Lane("generate", LIMITS, run, clock, asks=True)], clock)
    caller = Caller(1)
    engine.submit("generate", caller.request)
    drain(engine)
    assert isinstance(caller.outcomes[0].error, ModelFailed)


def test_a_model_that_answers_too_little_is_a_failure_not_a_shift(clock):
    engine = engine_of(clock, score=lambda group, items: list(items)[1:])
    caller = Caller(1, 2)
    engine.submit("score", caller.request)
    drain(engine)
    assert all(isinstance(o.error, ModelFailed) for o in caller.outcomes.values())


def test_expired_work_is_told_and_never_computed(clock):
    model = Model(clock)
    engine = engine_of(clock, score=model)
    caller = Caller(1, deadline=5.0)
    engine.submit("score", caller.request)
    clock.now = 5.0
    drain(engine)
    assert model.batches == []
    assert isinstance(caller.outcomes[0].error, Expired)


def test_closed_work_is_counted_and_neither_computed_nor_delivered(clock):
    model = Model(clock)
    engine = engine_of(clock, score=model)
    gone, kept = Caller(1, 2), Caller(3)
    engine.submit("score", gone.request)
    engine.submit("score", kept.request)
    assert engine.close("score", gone.request) == 2
    drain(engine)
    assert model.batches == [[3]]
    assert gone.deliveries == []
    assert engine.waiting() == {"score": (0, 0, 0)}


def test_work_closed_while_a_batch_is_halved_is_not_tried_again(clock):
    callers = [Caller(1), Caller(2)]
    seen: list[list[Any]] = []

    def run(group: Any, items: Sequence[Any]) -> list[Any]:
        seen.append(list(items))
        engine.close("score", callers[1].request)
        raise ValueError

    engine = engine_of(clock, score=run)
    for caller in callers:
        engine.submit("score", caller.request)
    drain(engine)
    assert seen == [[1, 2], [1]]


def test_lanes_share_the_model_by_time_not_by_batches(clock):
    score, generate = Model(clock, 1.0), Model(clock, 4.0)
    engine = engine_of(clock, score=score, generate=generate)
    for _ in range(40):
        engine.submit("score", Caller(1, 2, 3, 4).request)
        engine.submit("generate", Caller(1, 2, 3, 4).request)
    for _ in range(20):
        engine.step()
    assert (len(score.batches), len(generate.batches)) == (16, 4)


def test_a_lane_that_was_idle_does_not_claim_the_time_it_missed(clock):
    score, generate = Model(clock), Model(clock)
    engine = engine_of(clock, score=score, generate=generate)
    for _ in range(30):
        engine.submit("score", Caller(1, 2, 3, 4).request)
    for _ in range(10):
        engine.step()
    for _ in range(30):
        engine.submit("generate", Caller(1, 2, 3, 4).request)
    for _ in range(10):
        engine.step()
    assert len(generate.batches) == 5


def test_nor_where_the_other_lane_never_had_more_than_the_batch_in_hand(clock):
    score, generate = Model(clock), Model(clock)
    engine = engine_of(clock, score=score, generate=generate)
    for _ in range(20):
        engine.submit("generate", Caller(1, 2, 3, 4).request)
        engine.step()
    before = len(generate.batches)
    for lane in ("score", "generate"):
        for _ in range(10):
            engine.submit(lane, Caller(1, 2, 3, 4).request)
    for _ in range(10):
        engine.step()
    assert 4 <= len(generate.batches) - before <= 6


def test_pushback_follows_the_measured_pace(clock):
    engine = Engine([Lane("score", BatchLimits(8, queue_requests=2), Model(clock), clock)], clock)
    engine.submit("score", Caller(1, 2, 3, 4).request)
    drain(engine)  # 8 ids in one second
    engine.submit("score", Caller(1, 2, 3, 4).request)
    engine.submit("score", Caller(1, 2, 3, 4).request)
    with pytest.raises(QueueFull) as full:
        engine.submit("score", Caller(1).request)
    assert full.value.pushback_s == pytest.approx(1.0)


def test_the_thread_wakes_for_work_and_stops():
    done = threading.Event()
    engine = Engine([Lane("score", LIMITS, lambda group, items: list(items))])
    engine.start()
    entry = Entry(1, 1, "x", 0)
    engine.submit("score", Request([entry], "g", deliver=lambda outcomes: done.set()))
    assert done.wait(10)
    assert engine.stop(10)
