"""What actors tell Ray, seen at the calls of Ray's own classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from student_trainer.ray_runtime import metrics
from student_trainer.ray_runtime.metrics import RunMetrics
from student_trainer.types import Ragged, ScoredShard, StepReport

Told = dict[tuple[str, str], list[float]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Values by (metric, stage), with the labels checked as Ray checks them."""
    found: Told = {}

    class Fake:
        def __init__(self, name: str, *more: Any) -> None:
            self._name, self._keys, self._tags = name, more[-1], {}

        def set_default_tags(self, tags: dict[str, str]) -> Fake:
            self._tags = tags
            return self

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            tags = self._tags | (tags or {})
            assert set(tags) == set(self._keys) and tags["run"] == "mine"
            found.setdefault((self._name, tags.get("stage", "")), []).append(value)

        observe = set

        def inc(self, value: float = 1.0) -> None:
            assert value > 0, "Ray raises"
            self.set(value)

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Fake)
    return found


def test_a_worker_counts_what_its_student_wrote_and_its_teacher_scored(told: Told) -> None:
    rows = Ragged.of([[5, 1], [6, 7, 1], [8, 1]])
    shard = ScoredShard(
        batch=3,
        shard=1,
        version=2,
        beta=0.5,
        sources=rows,
        targets=rows,
        from_student=np.array([True, False, True]),
        labels=None,
        scored_sentences=3,
        generate_s=0.25,
        score_s=0.5,
    )
    RunMetrics("mine").shard(shard)
    assert told == {
        ("imitkd_sentences_written", ""): [2],
        ("imitkd_sentences_scored", ""): [3],
        ("imitkd_stage_seconds", "generate"): [0.25],
        ("imitkd_stage_seconds", "score"): [0.5],
        ("imitkd_version", ""): [2],
    }


def test_a_learner_counts_steps_and_a_batch_left_out_adds_no_sentence(told: Told) -> None:
    names = ("beta", "loss", "gradient_norm", "learning_rate", "student_share")
    zeros: dict[str, Any] = dict.fromkeys((*names, "generate_s", "score_s"), 0.0)
    zeros |= dict.fromkeys(("positions", "scored_sentences", "scored_positions", "version"), 0)
    mine = RunMetrics("mine")
    mine.step(StepReport(step=1, sentences=7, learn_s=0.125, **zeros))
    mine.step(StepReport(step=2, sentences=0, learn_s=0.0, **zeros))
    mine.published(2)
    assert told == {
        ("imitkd_sentences_learnt", ""): [7],
        ("imitkd_steps", ""): [1.0, 1.0],
        ("imitkd_stage_seconds", "learn"): [0.125, 0.0],
        ("imitkd_version", ""): [2],
    }
