"""The arithmetic of fleets, against numbers worked out by hand."""

from __future__ import annotations

import math
import random

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


def test_what_does_not_shrink_bounds_several_learners_and_not_one():
    stages = Stages(8.0, 2.0, 0.8, step_s=0.1, share_s=0.1)
    assert [stages.learn_by(k) for k in (1, 2, 4)] == pytest.approx([0.8, 0.5, 0.3])
    found = bounds(stages, Fleet(64, 64, learners=4), SHAPE)
    assert found["learners"] == pytest.approx(2.5)
    assert full_rate(stages) == pytest.approx(1 / 0.9)
    # Two batches a second: of half a second 0.2 s are fixed, and 0.3 s are left for 0.8 s of work.
    assert need(stages, SHAPE, rate=2.0).fleet.learners == 3
    assert need(stages, SHAPE).fleet.learners == 1


def test_hand_over_alone_may_take_too_long():
    with pytest.raises(ValueError, match="make batches larger"):
        need(Stages(1.0, 1.0, 0.1, step_s=0.1), SHAPE, rate=10.0)


def test_learners_that_would_mostly_wait_for_each_other_are_no_plan():
    stages = Stages(1.0, 1.0, 0.07, step_s=0.007, shard_s=0.0)
    assert need(stages, SHAPE, rate=71.0).fleet.learners == 10
    with pytest.raises(ValueError, match=r"142 batches/s .* 10 of them make 71.4, .* larger"):
        need(stages, SHAPE, rate=142.0)


def test_a_learner_has_one_sentence_of_a_batch_at_least():
    stages = Stages(1.0, 1.0, 0.07, step_s=0.007)
    with pytest.raises(ValueError, match=r"4 of them make 40.8, "):
        need(stages, SHAPE, rate=50.0, sentences=4)


def test_a_rate_that_the_driver_cannot_hand_out_takes_fewer_shards_or_is_refused():
    stages = Stages(0.01, 0.01, 0.001, step_s=0.001, shard_s=0.003)
    eight = Shape(shards=8, pool=4, lag=4)
    assert bounds(stages, Fleet(1, 1), eight)["driver"] == pytest.approx(1 / 0.024)
    found = need(stages, eight, rate=100.0)
    # At four fifths of its time it hands out 267 shards a second.
    assert found.shards == 2
    assert bounds(stages, found.fleet, Shape(2, 4, found.lag))["driver"] > 100.0
    with pytest.raises(ValueError, match=r"300 batches/s .* 267 shards a second; make .* larger"):
        need(stages, eight, rate=300.0)


def test_a_step_that_costs_nothing_is_still_handed_out():
    with pytest.raises(ValueError, match="333 batches/s are more than the driver hands out"):
        need(Stages(1.0, 1.0, 0.0), SHAPE)


def test_every_plan_makes_its_rate_or_there_is_none():
    draw = random.Random(3)
    refused = 0
    for _ in range(2000):
        stages = Stages(
            *(10 ** draw.uniform(-3, 1) for _ in range(3)),
            *(10 ** draw.uniform(-4, -2) for _ in range(3)),
        )
        shape = Shape(draw.randint(1, 64), draw.randint(1, 8), draw.randint(0, 8))
        rate, sentences = 10 ** draw.uniform(-1, 3), draw.randint(64, 512)
        try:
            found = need(stages, shape, rate, sentences)
        except ValueError:
            refused += 1
            continue
        assert 1 <= found.fleet.learners <= sentences and 1 <= found.shards <= sentences
        planned = Shape(found.shards, shape.pool, found.lag)
        allowed = bounds(stages, found.fleet, planned)
        assert min(allowed.values()) >= rate * (1 - 1e-6), (stages, shape, rate, found, allowed)
    assert 200 < refused < 1800


def test_a_worker_holds_as_many_shards_as_the_pool_gives_it():
    pool = pytest.importorskip("student_trainer.ray_runtime.pool")
    assert pool.DEPTH == DEPTH
