"""The bound stage is named, with what one more of it brings."""

from __future__ import annotations

from typing import Any

import pytest

from student_trainer.config import RunConfig
from student_trainer.types import StepReport
from student_trainer.verdict import StageTimes, judge


@pytest.fixture
def config_of(plain_config: dict[str, Any]):
    def make(runtime: str = "ray", workers: int = 2, teachers: int = 1) -> RunConfig:
        addresses = [f"host{i}:50051" for i in range(teachers)]
        extra = {"runtime": runtime, "workers": workers, "teacher": {"address": addresses}}
        return RunConfig(**(plain_config | {"method": "imitkd-full"} | extra))

    return make


def times(generate: float, teacher: float, learn: float, score: float = 0.0) -> StageTimes:
    """Of a loop of 100 seconds."""
    return StageTimes(100.0, generate, score or 1.5 * teacher, teacher, learn)


def test_the_teacher_bounds(config_of):
    verdict = judge(times(80.0, 96.0, 60.0), config_of(), load=0.0)
    assert (verdict.stage, verdict.utilisation) == ("score", 0.96)
    # With two replicas the teacher would be busy 48 %, and the learner's 60 % would bound.
    assert "teacher-bound: 2 replicas instead of 1 ≈ +60%" in verdict.advice
    assert verdict.stages == {"generate": 0.4, "score": 0.96, "learn": 0.6}


def test_a_teacher_of_three_replicas_is_less_busy(config_of):
    verdict = judge(times(30.0, 285.0, 20.0), config_of(teachers=3), load=0.0)
    assert verdict.stage == "score" and verdict.utilisation == pytest.approx(0.95)
    assert "4 replicas instead of 3 ≈ +33%" in verdict.advice


def test_generation_bounds(config_of):
    verdict = judge(times(190.0, 50.0, 30.0), config_of(), load=0.0)
    assert (verdict.stage, verdict.utilisation) == ("generate", 0.95)
    assert "workers=3 instead of 2 ≈ +50%" in verdict.advice


def test_workers_that_were_not_there_were_not_idle(config_of):
    """Eight were asked for; for 60 of 100 seconds there was one, for 40 there were three."""
    config = config_of(workers=8)
    there = StageTimes(100.0, 171.0, 60.0, 40.0, 30.0, worker_s=60.0 + 3 * 40.0)
    verdict = judge(there, config, load=0.0)
    assert (verdict.stage, verdict.utilisation) == ("generate", 0.95)
    assert "workers=3 instead of 2" in verdict.advice


def test_the_learner_bounds(config_of):
    verdict = judge(times(100.0, 40.0, 90.0), config_of(), load=2.0)
    assert verdict.stage == "learn" and "at most +80% until another" in verdict.advice


def test_stages_that_wait_for_each_other(config_of):
    verdict = judge(times(80.0, 30.0, 30.0), config_of(), load=0.1)
    assert verdict.stage == "waiting" and "rollout.lag (now 0)" in verdict.advice


def test_a_machine_with_no_core_left(config_of):
    verdict = judge(times(80.0, 30.0, 30.0), config_of(), load=1.5)
    assert verdict.stage == "cores" and "add cores" in verdict.advice


def test_in_one_process_the_longest_stage_is_named(config_of):
    verdict = judge(times(20.0, 0.0, 30.0, score=50.0), config_of("inline"))
    assert (verdict.stage, verdict.utilisation) == ("score", 0.5)
    assert "runtime ray overlaps them: up to +100%" in verdict.advice


def test_a_store_in_the_teachers_place_is_the_workers_time(config_of):
    verdict = judge(times(20.0, 0.0, 30.0, score=95.0), config_of(workers=1), load=0.0)
    assert (verdict.stage, verdict.utilisation) == ("score", 0.95)


def test_nothing_done_is_no_fault(config_of):
    assert judge(StageTimes(), config_of(), load=0.0).utilisation == 0.0


def test_steps_add_up():
    counts = dict.fromkeys(("sentences", "positions", "scored_sentences", "scored_positions"), 1)
    zeros = dict.fromkeys(("beta", "loss", "gradient_norm", "learning_rate", "student_share"), 0.0)
    report = StepReport(
        step=1, version=0, generate_s=1.0, score_s=2.0, teacher_s=0.5, learn_s=4.0, **counts,
        **zeros,
    )  # fmt: skip
    found = StageTimes()
    for _ in range(2):
        found.add(report, 8.0)
    assert found == StageTimes(16.0, 2.0, 4.0, 1.0, 8.0)
