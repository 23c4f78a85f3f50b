"""The simulated pipeline where its rate can be worked out, and never above what a part allows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.pipeline_simulation import Plan, simulate
from student_trainer.sizing import Fleet, Shape, Stages, bounds, need

FREE = {"step_s": 0.0, "shard_s": 0.0}
AHEAD = Shape(4, 4, 4)


@pytest.mark.parametrize(
    ("stages", "fleet", "shape", "rate"),
    [
        pytest.param(Stages(2.0, 0.0, 0.1, **FREE), Fleet(1, 0), AHEAD, 0.5, id="one worker"),
        pytest.param(Stages(2.0, 0.4, 0.1, **FREE), Fleet(4, 1), AHEAD, 2.0, id="four workers"),
        pytest.param(Stages(0.4, 2.0, 0.1, **FREE), Fleet(4, 1), AHEAD, 0.5, id="one replica"),
        pytest.param(Stages(0.4, 2.0, 0.1, **FREE), Fleet(4, 2), AHEAD, 1.0, id="two replicas"),
        pytest.param(Stages(0.4, 0.2, 2.0, **FREE), Fleet(4, 1), AHEAD, 0.5, id="the learner"),
        pytest.param(
            Stages(0.4, 0.2, 2.0, **FREE), Fleet(4, 1, learners=2), AHEAD, 1.0, id="two learners"
        ),
        pytest.param(Stages(1.0, 0.6, 0.4, **FREE), Fleet(1, 1), Shape(1, 1, 0), 0.5, id="in turn"),
        # Each pool of four is written (4 x 0.5 s), the last scored and learnt, before the next one.
        pytest.param(
            Stages(0.5, 0.2, 0.3, **FREE), Fleet(1, 1), Shape(1, 4, 0), 4 / 2.5, id="pools in turn"
        ),
        pytest.param(
            Stages(0.1, 0.0, 0.0, step_s=0.0, shard_s=0.5), Fleet(4, 0), AHEAD, 0.5, id="driver"
        ),
    ],
)
def test_rates_that_can_be_worked_out(stages, fleet, shape, rate):
    assert simulate(Plan(stages, fleet, shape), 240).rate == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(
    ("fleet", "cores", "rate"),
    [
        # A batch is 1 + 1 + 1 s of work.
        (Fleet(1, 1), 3, 1.0),
        (Fleet(1, 1), 2, 2 / 3),
        (Fleet(1, 1), 1, 1 / 3),
        # Two learners do a step's work of one in half of the time, on a core each.
        (Fleet(2, 2, learners=2), 2, 2 / 3),
        (Fleet(2, 2, learners=2), 6, 2.0),
    ],
)
def test_stages_on_too_few_cores_take_their_work_from_each_other(fleet, cores, rate):
    plan = Plan(Stages(1.0, 1.0, 1.0, **FREE), fleet, AHEAD, cores=cores)
    assert simulate(plan, 240).rate == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("many", [2, 4])
def test_more_workers_are_no_more_cores(many):
    # They run ahead together, as far as they may, then leave the learner alone with one core.
    rate = simulate(
        Plan(Stages(1.0, 1.0, 1.0, **FREE), Fleet(many, many), AHEAD, cores=2), 240
    ).rate
    assert 0.8 * 2 / 3 < rate < 0.97 * 2 / 3


def test_cores_enough_are_as_good_as_any_number():
    plan = Plan(Stages(1.0, 0.5, 0.3, 0.01, 0.002), Fleet(3, 2, 2), AHEAD, 0.01, spread=0.3)
    free = simulate(plan, 60, seed=5)
    shared = simulate(replace(plan, cores=7), 60, seed=5)
    assert shared.rate == pytest.approx(free.rate) and shared.score == pytest.approx(free.score)


def test_busy_shares_are_those_of_the_bound_stage():
    found = simulate(Plan(Stages(2.0, 0.5, 0.25, **FREE), Fleet(1, 1), AHEAD), 100)
    assert found.generate == pytest.approx(1.0, abs=0.02)
    assert found.score == pytest.approx(0.25, abs=0.02)
    assert found.learn == pytest.approx(0.125, abs=0.02)
    assert found.under_way <= 8


def test_no_rate_is_above_what_a_part_allows():
    draw = random.Random(1)
    for _ in range(60):
        stages = Stages(*(draw.uniform(0.05, 2.0) for _ in range(3)), 0.01, 0.002)
        fleet = Fleet(draw.randint(1, 9), draw.randint(1, 3), draw.randint(1, 2))
        shape = Shape(draw.randint(1, 9), draw.randint(1, 4), draw.randint(0, 5))
        found = simulate(Plan(stages, fleet, shape, answer_s=0.01, together=1), 60)
        allowed = bounds(stages, fleet, shape)
        assert found.rate <= 1.03 * min(allowed.values()), (stages, fleet, shape)


def test_the_fleet_that_is_needed_makes_the_rate():
    draw = random.Random(2)
    for _ in range(20):
        generate_s = draw.uniform(0.2, 30.0)
        score_s = draw.uniform(0.05, 0.5) * generate_s
        stages = Stages(generate_s, score_s, draw.uniform(0.2, 1.0))
        shape = Shape(draw.choice([2, 4, 16]), draw.choice([1, 4]), 0)
        wanted = need(stages, shape)
        enough = Shape(wanted.shards, shape.pool, wanted.lag)
        found = simulate(Plan(stages, wanted.fleet, enough, spread=0.2), 80)
        assert found.rate >= 0.85 * wanted.rate, (stages, wanted, found)


def test_the_same_seed_gives_the_same_run():
    plan = Plan(Stages(1.0, 0.5, 0.3), Fleet(3, 2), AHEAD, spread=0.5)
    assert simulate(plan, 40, seed=3) == simulate(plan, 40, seed=3) != simulate(plan, 40, seed=4)
