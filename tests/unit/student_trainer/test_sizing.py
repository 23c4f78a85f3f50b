"""The arithmetic of fleets, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from student_trainer.sizing import DEPTH, Fleet, Shape, Stages, bounds, full_rate, need

SHAPE = Shape(shards=4, pool=4, lag=4)


def test_each_part_bounds_the_rate_by_itself():
    stages = Stages(generate_s=8.0, score_s=2.0, learn_s=0.5, step_s=0.1, shard_s=0.01)
    found = bounds(stages, Fleet(workers=4, replicas=2, learners=2), SHAPE)
    assert found == pytest.approx(
        {
            "workers": 0.5,  # 8 s of writing on four
            "depth": 1.2,  # twelve shards of 2.5 s under way, four a batch
            "replicas": 1.0,
            "learners": 1 / 0.35,
            "ahead": 8 / (2.5 + 0.35),
            "driver": 25.0,
        }
    )


def test_what_costs_nothing_bounds_nothing():
    found = bounds(Stages(1.0, 0.0, 0.0, 0.0, 0.0), Fleet(1, 0), SHAPE)
    assert found["replicas"] == found["learners"] == found["driver"] == math.inf
    assert min(found.values()) == found["workers"] == 1.0


def test_the_fleet_of_a_learner_that_never_waits():
    stages = Stages(generate_s=8.0, score_s=2.0, learn_s=0.9, step_s=0.1)
    assert full_rate(stages) == 1.0
    found = need(stages, SHAPE)
    # 8 s of writing and 2 s of scoring a second, at four fifths of what they could.
    assert found.fleet == Fleet(workers=10, replicas=3, learners=1)
    # Ten workers write the sixteen shards of a pool, 2 s each, in two rounds. Of ten questions at
    # once, 0.5 s each, three replicas get 3.3 on average and the fullest one six: 3 s. At four
    # fifths: nine.
    assert (found.shards, found.lag) == (4, 9)


def test_a_rate_beyond_one_learner_takes_several():
    stages = Stages(generate_s=8.0, score_s=2.0, learn_s=0.9, step_s=0.1)
    found = need(stages, SHAPE, rate=3.0)
    assert found.fleet == Fleet(workers=30, replicas=8, learners=4)
    assert min(bounds(stages, found.fleet, Shape(found.shards, 4, found.lag)).values()) >= 3.0


def test_a_run_that_asks_no_teacher_needs_none():
    assert need(Stages(1.0, 0.0, 1.0), SHAPE).fleet.replicas == 0


def test_hand_over_alone_may_take_too_long():
    with pytest.raises(ValueError, match="make batches larger"):
        need(Stages(1.0, 1.0, 0.1, step_s=0.1), SHAPE, rate=10.0)


def test_a_worker_holds_as_many_shards_as_the_pool_gives_it():
    pool = pytest.importorskip("student_trainer.ray_runtime.pool")
    assert pool.DEPTH == DEPTH
