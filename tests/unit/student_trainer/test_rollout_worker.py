"""A shard is a function of its task; whom the student and the teacher are asked about."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq.decoding import Greedy, LengthLimit, generate
from seq2seq.model import Seq2SeqModel
from seq2seq.vocabulary import EOS_ID
from student_trainer.config import RunConfig
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.setup import make_model
from student_trainer.training_data import TrainingData, make_data
from student_trainer.types import Ragged, ScoredShard, ShardTask
from student_trainer.writers import make_writer
from teacher_service.codec import Argmax, ArgmaxSpec, PayloadRequest, ScoreResult, TopK, TopKSpec
from teacher_service.errors import TeacherUnavailable
from tests.builders import tiny_vocabulary

VOCABULARY = tiny_vocabulary()


class MarkingTeacher:
    """Answers each position with ids that say which position of which target it was."""

    def __init__(self, error: Exception | None = None, missing: int = 0) -> None:
        self.asked: list[tuple[list[np.ndarray], list[np.ndarray], PayloadRequest, float]] = []
        self._error, self._missing = error, missing

    def score(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        payload: PayloadRequest,
        *,
        temperature: float = 1.0,
    ) -> ScoreResult:
        self.asked.append((list(sources), list(targets), payload, temperature))
        if self._error is not None:
            raise self._error
        tokens = np.concatenate([*targets, np.zeros(0, np.int32)])
        marks = (tokens + 1).astype(np.int32)[: len(tokens) - self._missing]
        found: Argmax | TopK
        if isinstance(payload, ArgmaxSpec):
            found = Argmax(marks, np.full(len(marks), np.log(0.75), np.float32))
        else:
            k = payload.k if isinstance(payload, TopKSpec) else 1
            columns = np.arange(k, dtype=np.int32)
            log_probs = np.full((len(marks), k), np.log(0.5 / k), np.float32)
            tail = np.full(len(marks), np.log(0.5), np.float32)
            found = TopK(marks[:, None] + columns, log_probs, tail)
        lengths = np.array([len(t) for t in targets], np.int32)
        return ScoreResult(lengths, np.zeros(len(tokens), np.float32), found, "revision", 0.0, 0.0)


@pytest.fixture
def config_of(plain_config: dict[str, Any]):
    def make(method: str = "imitkd-full", **changes: Any) -> RunConfig:
        extra = {"method": method, "teacher": {"address": "nowhere:1"}}
        return RunConfig(**(plain_config | extra | changes))

    return make


def weights(seed: int, end_bias: float = 0.0) -> dict[str, torch.Tensor]:
    """Student weights peaked enough that sentences differ."""
    torch.manual_seed(seed)
    config = {"d_model": 16, "heads": 2, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1}
    model = make_student(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.state_dict()["logit_bias"][EOS_ID] += end_bias
    return {k: v.clone() for k, v in model.state_dict().items()}


def make_student(config: dict[str, Any]) -> Seq2SeqModel:
    from seq2seq.model import build_model

    return build_model({"kind": "transformer", "vocab_size": VOCABULARY.size} | config)


def worker_of(
    config: RunConfig, teacher: MarkingTeacher | None = None, loaded: int | None = 0, **extra: Any
) -> RolloutWorker:
    """A worker as another process would build it, with the weights of a version."""
    data: TrainingData = make_data(config, VOCABULARY)
    writer = None
    if config.student_writes:
        writer = make_writer(config, make_model(config, VOCABULARY).eval())
    if teacher is None and config.method != "vanilla":
        teacher = MarkingTeacher()
    worker = RolloutWorker(config, data.split, data.plan, writer, teacher, **extra)
    if loaded is not None:
        worker.load(loaded, weights(100 + loaded))
    return worker


def content(shard: ScoredShard) -> dict[str, Any]:
    """All that training sees; times left out."""
    plain = dataclasses.asdict(shard)
    return {
        k: np.asarray(v).tolist() if not isinstance(v, dict) else repr(v)
        for k, v in plain.items()
        if not k.endswith("_s")
    }


def assert_same(first: ScoredShard, second: ScoredShard) -> None:
    with np.printoptions(threshold=10**6):
        assert content(first) == content(second)


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
def test_a_shard_is_a_function_of_its_task_whoever_runs_it(config_of, decoding):
    rollout = {"decoding": decoding, "top_k": 0, "limit": {"cap": 16}}
    config = config_of(rollout=rollout)
    tasks = [ShardTask(b, j, 0, 0.4) for b in (3, 0, 14) for j in (1, 0)]
    first, second = worker_of(config), worker_of(config)
    for task, found in zip(tasks, map(first.run, tasks), strict=True):
        assert (found.batch, found.shard, found.version) == (task.batch, task.shard, 0)
    for task in reversed(tasks):
        assert_same(first.run(task), second.run(task))


def test_sampling_differs_between_batches_of_the_same_row(config_of):
    config = config_of(
        rollout={"decoding": "sample", "top_k": 0, "temperature": 3.0, "limit": {"cap": 16}},
        corpus=config_of().corpus.model_dump() | {"sentences": 4},
        batch={"sentences": 4},
    )
    worker = worker_of(config)
    texts = [worker.run(ShardTask(b, 0, 0, 0.0)) for b in range(3)]
    assert len({tuple(t.targets.ids_P.tolist()) for t in texts}) == 3


def test_coins_belong_to_rows_not_to_shards(config_of):
    def flips(shards: int) -> dict[tuple[int, ...], bool]:
        config = config_of(batch={"sentences": 12, "shards": shards})
        found = {}
        worker = worker_of(config)
        for j in range(shards):
            shard = worker.run(ShardTask(5, j, 0, 0.5))
            rows = [tuple(r.tolist()) for r in shard.sources.rows()]
            found |= dict(zip(rows, shard.from_student.tolist(), strict=True))
        return found

    whole = flips(1)
    assert set(whole.values()) == {True, False}
    assert whole == flips(2) == flips(5)


def test_coins_follow_beta(config_of):
    worker = worker_of(config_of(batch={"sentences": 32}))

    def share(beta: float) -> float:
        shards = [worker.run(ShardTask(b, 0, 0, beta)) for b in range(12)]
        return float(np.mean(np.concatenate([s.from_student for s in shards])))

    assert share(1.0) == 0.0 and share(0.0) == 1.0
    # 384 draws: five standard deviations are 0.11.
    assert share(0.75) == pytest.approx(0.25, abs=0.11)


@pytest.mark.parametrize("loaded", [None, 3])
def test_weights_of_another_version_are_refused(config_of, loaded):
    worker = worker_of(config_of(), loaded=loaded)
    with pytest.raises(ValueError, match=rf"needs version 4, the worker holds {loaded}"):
        worker.run(ShardTask(8, 0, 4, 0.5))


@pytest.mark.parametrize("method", ["vanilla", "word-kd"])
def test_where_nobody_writes_no_weights_are_needed(config_of, method):
    shard = worker_of(config_of(method), loaded=None).run(ShardTask(1, 0, 4, 0.0))
    assert not shard.from_student.any()


def test_the_version_decides_what_is_written(config_of):
    worker = worker_of(config_of())
    before = worker.run(ShardTask(0, 0, 0, 0.0))
    worker.load(1, weights(101))
    after = worker.run(ShardTask(0, 0, 1, 0.0))
    assert before.targets.ids_P.tolist() != after.targets.ids_P.tolist()
    worker.load(0, weights(100))
    assert_same(worker.run(ShardTask(0, 0, 0, 0.0)), before)


def test_student_rows_are_what_the_student_writes_and_the_others_keep_their_reference(config_of):
    config = config_of(batch={"sentences": 16})
    worker = worker_of(config)
    shard = worker.run(ShardTask(2, 0, 0, 0.5))
    data = make_data(config, VOCABULARY)
    student = make_student({"d_model": 16, "heads": 2, "ffn": 32, "encoder_layers": 1,
                            "decoder_layers": 1})  # fmt: skip
    student.load_state_dict(weights(100))
    limit = LengthLimit(ratio=1.0, offset=4, cap=32)
    expected, plan = [], data.plan.rows(2)
    for row, own in zip(plan, shard.from_student, strict=True):
        source = data.split.source(row)
        alone = generate(student, [source], Greedy(), limit=limit)[0][0].ids
        expected.append(list(alone) if own else data.split.target(row).tolist())
    assert [r.tolist() for r in shard.targets.rows()] == expected
    assert [r.tolist() for r in shard.sources.rows()] == [
        data.split.source(row).tolist() for row in plan
    ]


@pytest.mark.parametrize(
    ("method", "switch", "everyone", "payload"),
    [
        ("imitkd", False, False, ArgmaxSpec()),
        ("imitkd", True, True, ArgmaxSpec()),
        ("imitkd-full", False, True, TopKSpec(8)),
        ("word-kd", False, True, TopKSpec(8)),
    ],
)
def test_whom_the_teacher_is_asked_about(config_of, method, switch, everyone, payload):
    teacher = MarkingTeacher()
    loss = {"top_k": 8, "temperature": 2.0, "teacher_labels_on_data_rows": switch}
    config = config_of(method, loss=loss, batch={"sentences": 16})
    shard = worker_of(config, teacher).run(ShardTask(0, 0, 0, 0.5))
    asked = np.ones(16, bool) if everyone else shard.from_student
    assert method == "word-kd" or 0 < shard.from_student.sum() < 16
    ((sources, targets, sent, temperature),) = teacher.asked
    assert (sent, temperature) == (payload, 2.0)
    for given, own in ((sources, shard.sources), (targets, shard.targets)):
        chosen = [row.tolist() for row, a in zip(own.rows(), asked, strict=True) if a]
        assert [g.tolist() for g in given] == chosen
    assert shard.scored_sentences == asked.sum()
    assert shard.labels is not None
    assert (
        shard.labels.positions.tolist()
        == np.flatnonzero(np.repeat(asked, shard.targets.lengths_B)).tolist()
    )
    # Each label lies at the position it was given for.
    assert (shard.labels.ids_QK[:, 0] == shard.targets.ids_P[shard.labels.positions] + 1).all()


def test_nobody_is_asked_under_vanilla_nor_where_all_rows_keep_their_reference(config_of):
    assert worker_of(config_of("vanilla")).run(ShardTask(0, 0, 0, 0.0)).labels is None
    teacher = MarkingTeacher()
    shard = worker_of(config_of("imitkd"), teacher).run(ShardTask(0, 0, 0, 1.0))
    assert (shard.labels, shard.scored_sentences, teacher.asked) == (None, 0, [])


def test_an_end_written_at_once_is_a_position_and_nothing_follows_it(config_of):
    teacher = MarkingTeacher()
    worker = worker_of(config_of("imitkd"), teacher)
    worker.load(1, weights(1, end_bias=1000.0))
    shard = worker.run(ShardTask(0, 0, 1, 0.0))
    assert [r.tolist() for r in shard.targets.rows()] == [[EOS_ID]] * len(shard.targets)
    assert shard.labels is not None
    assert shard.positions == len(shard.labels.positions) == len(shard.targets)


def test_targets_end_with_their_end_symbol_or_at_the_limit(config_of):
    worker = worker_of(config_of(batch={"sentences": 32}))
    found = {True: 0, False: 0}
    for version, bias in enumerate([-1000.0, 5.0, 8.0, 12.0]):
        worker.load(version, weights(5, bias))
        shard = worker.run(ShardTask(0, 0, version, 0.0))
        for source, target in zip(shard.sources.rows(), shard.targets.rows(), strict=True):
            ended = bool(target[-1] == EOS_ID)
            found[ended] += 1
            assert EOS_ID not in target[:-1]
            assert ended or len(target) == min(len(source) + 4, 32)
    assert found[True] and found[False]


def test_the_argmax_leaves_the_rest_of_its_mass_as_tail(config_of):
    shard = worker_of(config_of("imitkd")).run(ShardTask(0, 0, 0, 0.0))
    assert shard.labels is not None
    np.testing.assert_allclose(np.exp(shard.labels.tail_log_mass_Q), 0.25, rtol=1e-5)


def test_more_shards_than_rows_leave_some_empty(config_of):
    worker = worker_of(config_of(batch={"sentences": 3, "shards": 5}))
    sizes = [len(worker.run(ShardTask(0, j, 0, 0.0)).targets) for j in range(5)]
    assert sizes == [1, 1, 1, 0, 0]


def test_a_teacher_that_stays_away_is_reported_with_the_shard(config_of):
    teacher = MarkingTeacher(TeacherUnavailable("host:1 Score: no answer in 300 s"))
    with pytest.raises(TeacherUnavailable) as caught:
        worker_of(config_of(), teacher).run(ShardTask(7, 1, 0, 0.0))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is TeacherUnavailable
    assert str(again) == "batch 7 shard 1: host:1 Score: no answer in 300 s"


def test_labels_for_another_number_of_positions_are_refused(config_of):
    with pytest.raises(ValueError, match="positions") as caught:
        worker_of(config_of(), MarkingTeacher(missing=1)).run(ShardTask(7, 1, 0, 0.0))
    assert pickle.loads(pickle.dumps(caught.value)).__notes__ == ["while running batch 7 shard 1"]


def test_stages_are_timed_with_the_clock_given(config_of):
    ticks = iter([10.0, 13.0, 20.0, 27.0])  # between the stages nobody counts
    shard = worker_of(config_of(), clock=lambda: next(ticks)).run(ShardTask(0, 0, 0, 0.0))
    assert (shard.generate_s, shard.score_s) == (3.0, 7.0)


@pytest.mark.parametrize("rows", [[], [[]], [[4, 5], [], [6]], [[7]]])
def test_ragged_rows_come_back(rows):
    ragged = Ragged.of([np.array(r, np.uint16) for r in rows])
    assert [r.tolist() for r in ragged.rows()] == rows
    assert len(ragged) == len(rows)
    assert ragged.ids_P.dtype == ragged.lengths_B.dtype == np.int32
