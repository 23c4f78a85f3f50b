"""Waiting for a cluster to grow, by a clock and a number of CPUs that the test sets."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from seq2seq.errors import UserError
from student_trainer.ray_runtime.room import AGAIN_S, Demand, Room

DEMAND = Demand(workers=4, worker_threads=2, learner_cpus=1)
LACKING = (
    "waiting for room: 4 workers of 2 threads and a learner of 1 need 9 CPUs, the Ray cluster has "
    "{}; lower workers (or workers_at_start, where more nodes will join) or add nodes"
)


class Growing:
    """A cluster and a clock.

    Attributes:
        cpus, now: as they are.
    """

    def __init__(self, demand: Demand | None = DEMAND, patience_s: float = 300.0) -> None:
        self.cpus, self.now = 0.0, 1000.0
        self.room = Room(demand, patience_s, lambda: self.cpus, lambda: self.now)

    def after(self, seconds: float, ready: int = 0) -> None:
        self.now += seconds
        self.room.look(ready)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {r.levelname for r in caplog.records} <= {"WARNING"}
    return [r.getMessage() for r in caplog.records]


def test_what_is_missing_is_said_at_once_when_it_changes_and_once_a_minute(caplog):
    it = Growing()
    it.after(0)
    for _ in range(3):
        it.after(10)
    assert lines(caplog) == [LACKING.format(0)]
    it.cpus = 8
    it.after(1)
    assert lines(caplog)[1:] == [LACKING.format(8)]
    it.after(AGAIN_S)
    assert lines(caplog)[2:] == [LACKING.format(8)]
    it.cpus = 9
    caplog.clear()
    it.after(1, ready=1)
    assert lines(caplog) == ["waiting for workers: 1 of 4 are ready, each takes 2 CPUs of one node"]


def test_with_room_enough_nothing_is_said_for_a_while(caplog):
    it = Growing()
    it.cpus = 9
    for _ in range(5):
        it.after(10)
    assert lines(caplog) == []
    it.after(10_000, ready=3)
    assert len(lines(caplog)) == 1, "and the wait has no end: others may hold the CPUs"


def test_patience_is_with_a_cluster_that_does_not_grow():
    it = Growing()
    it.after(299)
    it.cpus = 2
    it.after(299)  # it grew meanwhile
    it.after(299)
    it.cpus = 1
    with pytest.raises(
        UserError, match=r"need 9 .* has 1, for 300 s \(room_timeout_s\) now; lower"
    ):
        it.after(2)


def test_a_node_that_goes_and_comes_back_is_no_growth():
    it = Growing()
    it.cpus = 4
    it.after(0)
    for seconds in (100, 100, 99):
        it.cpus = 6 - it.cpus
        it.after(seconds)
    it.cpus = 4
    with pytest.raises(UserError, match="has 4, for 300 s"):
        it.after(1)


def test_patience_begins_anew_where_there_was_room():
    it = Growing()
    it.cpus = 9
    it.after(1000)
    it.cpus = 7
    it.after(299)
    with pytest.raises(UserError, match="has 7, for 300 s"):
        it.after(1)


def test_where_nothing_is_reserved_nothing_is_waited_for(caplog):
    Growing(demand=None).after(1e6)
    assert lines(caplog) == []
