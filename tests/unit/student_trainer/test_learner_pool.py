"""Methods whose student rows outlive their batch, at the learner: resumed, and with none there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from student_trainer.config import make_config
from student_trainer.learner import Learner
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import make_learner
from student_trainer.types import Ragged, ScoredShard, TeacherLabels
from tests.builders import sentences, tiny_vocabulary

VOCABULARY = tiny_vocabulary()


def shards(batch: int, replayed: int = 0, own: bool = True) -> list[ScoredShard]:
    """Two shards of two rows each, the student's if ``own``, labelled with their own tokens."""
    made = []
    for number in range(2):
        rows = sentences(10 * batch + number, [3, 4], VOCABULARY.size) if own else []
        ids = np.array([v for row in rows for v in row], np.int32)[:, None]
        labels = TeacherLabels(
            np.arange(len(ids)),
            np.hstack([ids, (ids + 1) % VOCABULARY.size]),
            np.log(np.tile(np.array([[0.7, 0.2]], np.float32), (len(ids), 1))),
            np.full(len(ids), np.log(0.1), np.float32),
            np.zeros(len(ids), np.float32),
        )
        made.append(
            ScoredShard(
                batch, number, 0, 0.0, Ragged.of(rows), Ragged.of(rows),
                np.ones(len(rows), bool), labels if rows else None, replayed=replayed,
            )
        )  # fmt: skip
    return made


@pytest.fixture
def learner_of(plain_config: dict[str, Any], tmp_path: Path) -> Any:
    def make(method: str, folder: str) -> Learner:
        changes = {"method": method, "teacher": {"address": "nowhere:1"}, "loss": {"top_k": 2}}
        config = make_config(plain_config | changes)
        return make_learner(config, VOCABULARY, RunDirectory(tmp_path / folder))

    return make


def state(learner: Learner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in learner._model.state_dict().items()}


@pytest.mark.parametrize("method", ["replay", "aggregation"])
def test_a_resumed_run_draws_the_same_rows(learner_of: Any, method: str) -> None:
    whole, broken = learner_of(method, "whole"), learner_of(method, "broken")
    reports = [whole.step(shards(b, replayed=b > 0)) for b in range(4)]
    for b in range(2):
        broken.step(shards(b, replayed=b > 0))
    broken.save_checkpoint({})
    again = learner_of(method, "broken")
    again.restore()
    later = [again.step(shards(b, replayed=b > 0)) for b in (2, 3)]
    assert [r.loss for r in later] == [r.loss for r in reports[2:]]
    assert [r.sentences for r in later] == [6 if method == "replay" else 4] * 2
    first, second = state(whole), state(again)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_batch_left_out_whole_changes_nothing_but_the_step(learner_of: Any) -> None:
    """Every row was to be replayed while there was none yet."""
    learner = learner_of("replay", "run")
    before = state(learner)
    report = learner.step(shards(0, replayed=2, own=False))
    assert (report.step, report.sentences, report.positions, report.loss) == (1, 0, 0, 0.0)
    assert all(torch.equal(before[k], v) for k, v in state(learner).items())
    assert learner.step(shards(1)).loss > 0
