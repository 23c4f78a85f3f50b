"""The learner consumes batches in order, keeps the best student, and continues bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq.checkpoint import load_model_directory
from seq2seq.errors import UserError
from seq2seq.metrics import Scores
from student_trainer import learner as learner_module
from student_trainer import update as update_module
from student_trainer.config import RunConfig
from student_trainer.evaluation import Evaluation
from student_trainer.learner import Learner
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import make_learner, make_model
from student_trainer.training_data import make_data
from student_trainer.types import ScoredShard, ShardTask, TeacherLabels
from tests.builders import tiny_vocabulary

VOCABULARY = tiny_vocabulary()
Make = Callable[..., Learner]


@pytest.fixture
def config_of(plain_config: dict[str, Any]) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        merged = dict(plain_config)
        for key, value in changes.items():
            old = merged.get(key)
            merged[key] = old | value if isinstance(old, dict) else value
        return RunConfig(**merged)

    return make


@pytest.fixture
def learner_of(config_of, tmp_path: Path) -> Make:
    def make(folder: str = "run", **changes: Any) -> Learner:
        return make_learner(config_of(**changes), VOCABULARY, RunDirectory(tmp_path / folder))

    return make


@pytest.fixture
def batches(config_of) -> Callable[[int], list[ScoredShard]]:
    """The shards of batch i, references only."""
    config = config_of()
    data = make_data(config, VOCABULARY)
    worker = RolloutWorker(config, data.split, data.plan)
    return lambda i: [worker.run(ShardTask(i, j, 0, 1.0)) for j in range(config.batch.shards)]


def state(learner: Learner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in learner._model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[k], second[k]) for k in first)


def test_batches_come_in_order_or_not_at_all(learner_of, batches):
    learner = learner_of()
    with pytest.raises(ValueError, match="batch 1 came, batch 0 is next"):
        learner.step(batches(1))
    learner.step(batches(0))
    with pytest.raises(ValueError, match="batch 0 came, batch 1 is next"):
        learner.step(batches(0))


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [1]])
def test_shards_that_are_no_whole_batch_in_order_are_refused(learner_of, batches, order):
    learner = learner_of()
    before = state(learner)
    shards = batches(0)
    with pytest.raises(ValueError, match="do not make up one batch"):
        learner.step([shards[j] for j in order])
    assert same(before, state(learner)) and learner.steps_done == 0


def test_shards_of_different_versions_are_refused(learner_of, batches):
    first, second = batches(0)
    with pytest.raises(ValueError, match="do not make up one batch"):
        learner_of().step([first, replace(second, version=3)])


def test_a_step_reports_what_it_did(learner_of, batches):
    learner = learner_of()
    shards = batches(0)
    report = learner.step(shards)
    assert (report.step, report.version, report.beta) == (1, 0, 1.0)
    assert report.sentences == 8
    assert report.positions == sum(len(s.targets.ids_P) for s in shards)
    assert (report.scored_sentences, report.scored_positions, report.student_share) == (0, 0, 0.0)
    # An untrained model is about as good as guessing among all ids.
    assert report.loss == pytest.approx(math.log(VOCABULARY.size), abs=1.0)
    assert report.learning_rate == pytest.approx(0.005), "half way through the warm-up"


def test_shard_by_shard_is_the_same_step(learner_of, batches):
    found = []
    for accumulate in (False, True):
        learner = learner_of(
            f"{accumulate}", batch={"accumulate": accumulate}, model={"dropout": 0.0}
        )
        found.append([learner.step(batches(i)) for i in range(3)])
    for whole, summed in zip(*found, strict=True):
        assert summed.loss == pytest.approx(whole.loss, rel=1e-6)
        assert summed.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
        assert summed.positions == whole.positions


def test_shard_by_shard_refuses_what_is_no_whole_batch(learner_of, batches):
    learner = learner_of(batch={"accumulate": True})
    with pytest.raises(ValueError, match="do not make up one batch"):
        learner.step(batches(0)[1:])


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(config_of, learner_of, batches):
    def losses(shards: int) -> list[float]:
        model = {"dropout": 0.0}
        config = config_of(batch={"shards": shards}, model=model)
        data = make_data(config, VOCABULARY)
        worker = RolloutWorker(config, data.split, data.plan)
        learner = learner_of(f"cut-{shards}", batch={"shards": shards}, model=model)
        return [
            learner.step([worker.run(ShardTask(i, j, 0, 1.0)) for j in range(shards)]).loss
            for i in range(3)
        ]

    assert losses(1) == pytest.approx(losses(3), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(learner_of, batches):
    learner = learner_of(method="word-kd", teacher={"address": "nowhere:1"})
    first, second = batches(0)
    count = first.positions
    broken = TeacherLabels(
        np.arange(count),
        np.tile(np.arange(2, dtype=np.int32), (count, 1)),
        np.full((count, 2), np.nan, np.float32),
        np.zeros(count, np.float32),
    )
    before = state(learner)
    with pytest.raises(UserError, match=r"batch 0: loss nan.*optimiser.learning_rate"):
        learner.step([replace(first, labels=broken), second])
    assert same(before, state(learner)) and learner.steps_done == 0


def test_a_quarantined_shard_is_left_out_and_the_rest_is_learnt(learner_of, batches):
    """The same step as on a batch that never had its rows."""
    shards = batches(0)
    left = ScoredShard.left_out(ShardTask(0, 0, 0, 1.0))
    with_rest, rest_alone = learner_of("with"), learner_of("alone")
    found = with_rest.step([left, shards[1]])
    alone = rest_alone.step([replace(shards[1], shard=0)])
    assert (found.loss, found.positions) == (alone.loss, alone.positions)
    assert same(state(with_rest), state(rest_alone))
    assert [(s.rows, s.quarantined) for s in found.shards] == [(0, True), (4, False)]


def test_a_batch_of_which_nothing_is_left_counts_as_a_step(learner_of, batches):
    learner = learner_of(optimiser={"average": 0.9})
    before = state(learner)
    found = learner.step([ScoredShard.left_out(ShardTask(0, j, 0, 1.0)) for j in range(2)])
    assert (found.step, learner.steps_done, found.sentences) == (1, 1, 0)
    assert same(state(learner), before)
    assert math.isfinite(learner.step(batches(1)).loss)


def test_averaging_that_begins_with_a_resume_begins_with_the_weights(learner_of, batches):
    plain = learner_of(optimiser={"average": 0.0})
    for i in range(3):
        plain.step(batches(i))
    plain.save_checkpoint({})
    resumed = learner_of(optimiser={"average": 0.9})
    resumed.restore()
    assert resumed._average is not None
    weights = state(resumed)
    assert all(torch.equal(tensor, weights[k]) for k, tensor in resumed._average.tensors.items())


def test_publishing_is_for_the_weights_that_are_there(learner_of, batches):
    learner = learner_of()
    weights = learner.publish(0)
    before = {k: v.clone() for k, v in weights.items()}
    learner.step(batches(0))
    assert same(before, learner.store.get(0)), "a version stays as it was"
    with pytest.raises(ValueError, match="version 0 asked for after 1 steps"):
        learner.publish(0)
    assert not same(before, learner.publish(1))
    learner.store.retire(1)
    assert learner.store.versions() == [1]
    with pytest.raises(KeyError, match=r"version 0 are not held \(held: \[1\]\)"):
        learner.store.get(0)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_restored_learner_continues_bit_by_bit(learner_of, batches, average):
    changes = {"optimiser": {"steps": 9, "average": average, "weight_decay": 0.01}}
    whole = learner_of("whole", **changes)
    expected = [whole.step(batches(i)).loss for i in range(9)]
    first = learner_of("cut", **changes)
    assert [first.step(batches(i)).loss for i in range(5)] == expected[:5]
    first.publish(5)
    first.save_checkpoint({"teacher_revision": "r"})
    second = learner_of("cut", **changes)
    assert second.restore() == {"teacher_revision": "r"}
    assert second.steps_done == 5
    assert second.store.versions() == [5]
    assert same(second.store.get(5), first.store.get(5))
    assert [second.step(batches(i)).loss for i in range(5, 9)] == expected[5:]
    assert same(state(second), state(whole))
    if average:
        assert second._average is not None and whole._average is not None
        assert same(second._average.tensors, whole._average.tensors)


def test_nothing_to_restore(learner_of):
    learner = learner_of()
    assert learner.restore() is None and learner.steps_done == 0


def test_a_checkpoint_of_another_model_is_refused(learner_of):
    learner_of("run").save_checkpoint({})
    with pytest.raises(UserError, match="does not fit"):
        learner_of("run", model={"ffn": 16}).restore()


def scripted(monkeypatch: pytest.MonkeyPatch, bleus: list[float]) -> list[float]:
    """Evaluations with these scores; the first weight of the model each one saw."""
    seen: list[float] = []

    def fake(model: torch.nn.Module, vocabulary: object, examples: list[Any], **_: Any) -> Any:
        seen.append(float(next(iter(model.state_dict().values())).flatten()[0]))
        scores = Scores(bleus.pop(0), 50.0, "bleu signature", "chrf signature")
        return Evaluation(scores, 1.0, ["text"] * len(examples), 1.0, 1.0)

    monkeypatch.setattr(learner_module, "evaluate", fake)
    return seen


def test_the_best_student_is_kept(learner_of, batches, monkeypatch, tmp_path):
    scripted(monkeypatch, [10.0, 9.0, 10.0, 11.0])
    learner = learner_of()
    saved = []
    for i in range(4):
        learner.step(batches(i))
        report = learner.validate()
        assert report.step == i + 1 and len(report.examples) == 3
        directory = load_model_directory(tmp_path / "run" / "student")
        kept = {k: v.half() for k, v in state(learner).items()}
        stored = {k: v.half() for k, v in directory.model.state_dict().items()}
        saved.append((report.best, same(kept, stored)))
    assert saved == [(True, True), (False, False), (False, False), (True, True)]
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "validation, greedy: BLEU 11.00 (bleu signature)" in card and "step 4 of 8" in card


def test_the_best_outlives_a_restart(learner_of, batches, monkeypatch):
    scripted(monkeypatch, [10.0, 9.0])
    first = learner_of()
    first.step(batches(0))
    assert first.validate().best
    first.save_checkpoint({})
    second = learner_of()
    second.restore()
    assert not second.validate().best


def test_the_average_is_evaluated_and_saved_and_the_weights_go_on(
    learner_of, batches, monkeypatch, tmp_path
):
    seen = scripted(monkeypatch, [10.0])
    learner = learner_of(optimiser={"average": 0.99})
    for i in range(3):
        learner.step(batches(i))
    own = state(learner)
    learner.validate()
    assert same(own, state(learner))
    name = next(iter(own))
    assert learner._average is not None
    average = learner._average.tensors[name]
    assert seen == [float(average.flatten()[0])] != [float(own[name].flatten()[0])]
    stored = load_model_directory(tmp_path / "run" / "student").model.state_dict()
    assert torch.equal(stored[name], average.half().float())


def test_a_real_evaluation_scores_the_student(learner_of):
    report = learner_of().validate()
    assert report.best and 0.0 <= report.bleu < 20.0
    assert report.loss == pytest.approx(math.log(VOCABULARY.size), abs=1.0)
    assert len(report.examples) == 3


def test_a_device_that_is_not_there_is_named(learner_of):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match=r"device .cuda. is not .*cpu"):
        learner_of(device="cuda")


@pytest.mark.parametrize(("deterministic", "threads"), [(True, 1), (False, 2)])
def test_kernels_and_threads_are_pinned_within_a_step_only(
    learner_of, batches, monkeypatch, deterministic, threads
):
    def now() -> tuple[bool, int]:
        return torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    seen, backward = [], update_module.backward

    def watched(*arguments: Any, **settings: Any) -> float:
        seen.append(now())
        return backward(*arguments, **settings)

    monkeypatch.setattr(update_module, "backward", watched)
    before = now()
    learner = learner_of(deterministic=deterministic, learner_threads=threads)
    learner.step(batches(0))
    assert seen == [(deterministic, threads)]
    assert now() == before


def test_the_student_starts_the_same_in_every_process(config_of):
    first, second = (make_model(config_of(), VOCABULARY).state_dict() for _ in range(2))
    assert same(first, second)
    other = make_model(config_of(seed=4), VOCABULARY).state_dict()
    assert not same(first, other)
