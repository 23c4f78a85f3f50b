"""What is foretold of real runs, from stage times made up."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from benchmarks.scaling_real import _in_the_middle, foretold
from student_trainer.sizing import Fleet, Shape, Stages

FREE = {"step_s": 0.0, "shard_s": 0.0}
SHAPE = Shape(2, 4, 4)


@pytest.mark.parametrize(
    ("fleet", "cores", "bound", "rate"),
    [
        (Fleet(1, 1), 8, "workers", 0.5),
        # 2 + 0.5 + 1 s of work on two cores.
        (Fleet(2, 1), 2, "cores", 2 / 3.5),
        # Two learners take 0.5 + 0.1 s each: 0.2 s more of work.
        (Fleet(2, 1, learners=2), 2, "cores", 2 / 3.7),
    ],
)
def test_cores_bound_what_shares_them(fleet, cores, bound, rate):
    found = foretold(Stages(2.0, 0.5, 1.0, **FREE, share_s=0.1), fleet, SHAPE, cores)
    assert (found["bound"], found["allowed"]) == (bound, pytest.approx(rate))
    assert found["simulated"] == pytest.approx(rate, rel=0.05)


def test_the_middle_of_a_run_is_neither_its_begin_nor_its_end():
    names = ("generate_s", "score_s", "teacher_s", "learn_s", "idle_s")
    records = [dict.fromkeys(names, 1.0) | {"wall_s": 100.0}] * 8
    records = records + [dict.fromkeys(names, 2.0) | {"wall_s": 0.5}] * 4 + records
    found = _in_the_middle(records)
    assert found["rate"] == pytest.approx(2.0) and found["learn_s"] == 2.0
