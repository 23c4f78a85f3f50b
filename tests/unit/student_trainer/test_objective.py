"""A whole batch, from coin flips to gradients, against the paper read position by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seq2seq.batch import decoder_inputs
from seq2seq.data import Fit
from seq2seq.transformer import Transformer
from seq2seq.vocabulary import EOS_ID
from student_trainer import pieces
from student_trainer.assembly import TrainingBatch, assemble
from student_trainer.config import LossConfig, RunConfig, make_config
from student_trainer.methods import Method
from student_trainer.objective import backward
from student_trainer.portions import Portion
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.teacher_head import TeacherHead
from student_trainer.types import Ragged, ScoredShard, ShardTask, TeacherLabels
from student_trainer.writers import OwnWriter
from teacher_service.codec import (
    Argmax,
    ArgmaxSpec,
    Full,
    FullSpec,
    Hidden,
    HiddenSpec,
    PayloadRequest,
    ScoreResult,
    TopK,
    TopKSpec,
)
from teacher_service.projection import OutputProjection
from tests import oracles
from tests.builders import sentences, tiny_model, weights_of

V = 9
SOURCES, TARGETS = sentences(1, [4, 2, 6, 3, 5], V), sentences(2, [3, 5, 1, 4, 2], V)


def student(**changes: Any) -> Transformer:
    """In float64, so that losses and slopes can be compared to many digits."""
    # gelu: the slope of relu is not smooth enough for finite differences.
    shape: dict[str, Any] = {"vocab_size": V, "spread": 0.5, "end_bias": 0.0, "activation": "gelu"}
    return tiny_model(2, **(shape | changes)).double()


TEACHER = tiny_model(5, vocab_size=V, spread=0.5).double()


class SlowTeacher:
    """Answers like the service, from one full-prefix forward for every position."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def score(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        payload: PayloadRequest,
        *,
        temperature: float = 1.0,
    ) -> ScoreResult:
        self.asked += [t.tolist() for t in targets]
        rows = [
            p
            for s, t in zip(sources, targets, strict=True)
            for p in oracles.distributions(TEACHER, s.tolist(), t.tolist(), temperature)
        ]
        found: Any
        if isinstance(payload, HiddenSpec):
            found = Hidden(
                np.concatenate([states(s, t) for s, t in zip(sources, targets, strict=True)])
            )
        elif isinstance(payload, FullSpec):
            found = Full(np.array(rows, np.float32))
        else:
            found = top_k(rows, payload)
        lengths = np.array([len(t) for t in targets], dtype=np.int32)
        return ScoreResult(lengths, np.zeros(len(rows), dtype=np.float32), found, "sha256:0")


@torch.no_grad()
def states(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The teacher's final decoder states along a target, float32 ``[T, D]``."""
    encoded = TEACHER.encode(torch.tensor([source.tolist()]), torch.tensor([len(source)]))
    inputs = decoder_inputs(torch.tensor([target.tolist()]), TEACHER.config.start_id)
    return TEACHER.decode(encoded, inputs)[0].float().numpy()


def head() -> TeacherHead:
    weight, bias = (t.detach().float().numpy() for t in TEACHER.output_projection())
    return TeacherHead.of(OutputProjection(weight, bias, 1.0), "cpu")


def top_k(rows: list[oracles.LogProbs], payload: PayloadRequest) -> Argmax | TopK:
    assert isinstance(payload, ArgmaxSpec | TopKSpec)
    k = payload.k if isinstance(payload, TopKSpec) else 1
    ids = np.array([oracles.best_candidates(row, k) for row in rows], dtype=np.int32)
    table = np.array(rows)
    chosen = np.take_along_axis(table, ids, 1).astype(np.float32)
    if isinstance(payload, ArgmaxSpec):
        return Argmax(ids[:, 0], chosen[:, 0])
    rest = np.exp(table)
    np.put_along_axis(rest, ids, 0.0, 1)
    with np.errstate(divide="ignore"):
        return TopK(ids, chosen, np.log(rest.sum(1)).astype(np.float32))


class FixedRows:
    """The part of a tokenised split and of a batch plan that a worker needs."""

    fit = Fit()

    def source(self, row: int, u: float = 0.0) -> np.ndarray:
        return np.array(SOURCES[row], dtype=np.uint16)

    def target(self, row: int) -> np.ndarray:
        return np.array(TARGETS[row], dtype=np.uint16)

    def rows(self, batch: int) -> np.ndarray:
        return np.arange(len(SOURCES))


def configured(method: Method, shards: int = 2, **loss: Any) -> RunConfig:
    return make_config(
        {
            "name": "test",
            "method": method,
            "seed": 10,
            "corpus": {"path": "nowhere"},
            "vocabulary": {"size": 16},
            "model": {"kind": "transformer"},
            "loss": loss,
            "rollout": {"limit": {"ratio": 1.0, "offset": 2, "cap": 6}},
            "batch": {"sentences": 5, "shards": shards},
            "optimiser": {"steps": 10},
            "teacher": {"address": "nowhere:1"},
        }
    )


def written(
    config: RunConfig, writer: Transformer, beta: float, teacher: SlowTeacher | None = None
) -> list[ScoredShard]:
    """All shards of batch 3, written and scored as in a run."""
    rows: Any = FixedRows()
    worker = RolloutWorker(
        config, rows, rows, OwnWriter(config, writer.eval()), teacher or SlowTeacher()
    )
    worker.load(3, weights_of(writer))
    return [worker.run(ShardTask(3, j, 3, beta)) for j in range(config.batch.shards)]


def batch_of(shards: Sequence[ScoredShard]) -> TrainingBatch:
    return assemble(shards, 0, "cpu")


def rows_of(shards: Sequence[ScoredShard]) -> list[tuple[list[int], list[int], bool]]:
    return [
        (s.tolist(), t.tolist(), bool(own))
        for shard in shards
        for s, t, own in zip(
            shard.sources.rows(), shard.targets.rows(), shard.from_student, strict=True
        )
    ]


def paper_loss(model: Transformer, shards: Sequence[ScoredShard], config: RunConfig) -> float:
    """Mean over all positions of the loss that the paper gives each."""
    rows, loss = rows_of(shards), config.loss
    q = [oracles.distributions(model, s, t) for s, t, _ in rows]
    p = [oracles.distributions(TEACHER, s, t, loss.temperature) for s, t, _ in rows]

    def at(row: int, t: int) -> float:
        target, from_student = rows[row][1][t], rows[row][2]
        if config.method == "vanilla":
            return oracles.reference_loss(q[row][t], target, loss.label_smoothing)
        if config.method == "imitkd":
            if from_student or loss.teacher_labels_on_data_rows:
                return oracles.l_opt(q[row][t], p[row][t])
            return oracles.reference_loss(q[row][t], target, loss.label_smoothing)
        if config.method == "gkd":
            scaled = oracles.log_softmax([x / loss.student_temperature for x in q[row][t]])
            pair = ([math.exp(x) for x in row_] for row_ in (p[row][t], scaled))
            return oracles.divergence(loss.divergence, *pair, loss.jsd_beta, loss.skew_alpha)
        if loss.top_k >= V:
            return oracles.l_full(q[row][t], p[row][t])
        if loss.tail == "bucket":
            return oracles.l_full_bucket(q[row][t], p[row][t], loss.top_k)
        return oracles.l_full_renormalised(q[row][t], p[row][t], loss.top_k)

    return oracles.mean_loss([(s, t) for s, t, _ in rows], at)


def gradients(
    model: Transformer,
    batch: TrainingBatch,
    config: RunConfig,
    chunk: int = 1024,
    fused: bool = True,
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = backward(model, batch, config.method, config.loss, chunk, fused=fused, head=head())
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == dict(model.named_parameters()).keys()
    return loss, found


def close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-10) -> bool:
    return all(torch.allclose(a[k], b[k], rtol=1e-7, atol=atol) for k in a)


CASES: list[Any] = [
    pytest.param("vanilla", {"label_smoothing": 0.1}, 1.0, id="vanilla"),
    pytest.param("word-kd", {"top_k": 3}, 1.0, id="word-kd-bucket"),
    pytest.param("word-kd", {"top_k": 3, "tail": "renormalised"}, 1.0, id="word-kd-renormalised"),
    pytest.param("imitkd", {"label_smoothing": 0.1}, 0.5, id="imitkd-own-labels"),
    pytest.param("imitkd", {"teacher_labels_on_data_rows": True}, 0.5, id="imitkd-teacher-labels"),
    pytest.param("imitkd", {}, 0.0, id="imitkd-student-only"),
    pytest.param("imitkd", {}, 1.0, id="imitkd-data-only"),
    pytest.param("imitkd-full", {"top_k": 3, "temperature": 2.0}, 0.5, id="imitkd-full-bucket"),
    pytest.param("imitkd-full", {"top_k": 50}, 0.5, id="imitkd-full-everything"),
    pytest.param("imitkd", {"payload": "hidden"}, 0.0, id="imitkd-hidden"),
    pytest.param("gkd", {"top_k": 50, "divergence": "jsd"}, 0.5, id="gkd-jsd-top-k"),
    pytest.param(
        "gkd",
        {"payload": "hidden", "divergence": "jsd", "jsd_beta": 0.2, "temperature": 2.0},
        0.5,
        id="gkd-jsd-hidden",
    ),
    pytest.param(
        "gkd",
        {"payload": "full", "divergence": "reverse-kl", "student_temperature": 1.5},
        0.0,
        id="gkd-reverse-full",
    ),
    pytest.param("gkd", {"payload": "hidden", "divergence": "tvd"}, 0.5, id="gkd-tvd-hidden"),
]


@pytest.mark.parametrize(("method", "loss", "beta"), CASES)
def test_loss_and_slope_are_the_papers(method: Method, loss: dict[str, Any], beta: float) -> None:
    config = configured(method, **loss)
    model = student()
    shards = written(config, model, beta)
    own = [from_student for _, _, from_student in rows_of(shards)]
    if config.student_writes:
        assert (any(own), all(own)) == {0.0: (True, True), 0.5: (True, False), 1.0: (False, False)}[
            beta
        ]
    found, slopes = gradients(model, batch_of(shards), config, chunk=4)
    # The labels travelled in float32.
    assert found == pytest.approx(paper_loss(model, shards, config), abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(t.shape, generator=generator).double() for n, t in slopes.items()}
    step, ends = 1e-5, []
    for sign in (1, -1):
        moved = student()
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.add_(sign * step * direction[name])
        ends.append(paper_loss(moved, shards, config))
    expected = (ends[0] - ends[1]) / (2 * step)
    predicted = sum(float((slopes[n] * direction[n]).sum()) for n in slopes)
    assert predicted == pytest.approx(expected, rel=1e-4, abs=1e-5) and abs(expected) > 1e-3


@pytest.mark.parametrize(("method", "loss", "beta"), CASES)
@pytest.mark.parametrize("count", [2, 4])
def test_portions_add_up_to_the_papers_batch(
    method: Method, loss: dict[str, Any], beta: float, count: int
) -> None:
    config = configured(method, **loss)
    model = student()
    shards = written(config, model, beta)
    _, expected = gradients(model, batch_of(shards), config)
    model.zero_grad(set_to_none=True)
    found = []
    for portion in Portion.whole(4, shards).divided(count):
        mine = Portion.of_tensors(portion.tensors())
        batch, method, settings = batch_of(mine.shards), config.method, config.loss
        # backward adds to the gradients that are there
        found.append(
            backward(model, batch, method, settings, positions=mine.positions, head=head())
        )
    assert sum(map(bool, found)) > 1
    assert sum(found) == pytest.approx(paper_loss(model, shards, config), abs=1e-6)
    assert close({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, expected)


@pytest.mark.parametrize("switch", [False, True])
def test_the_switch_decides_who_labels_data_rows(switch: bool) -> None:
    config = configured("imitkd", teacher_labels_on_data_rows=switch)
    teacher = SlowTeacher()
    shards = written(config, student(), 0.5, teacher)
    rows = rows_of(shards)
    assert teacher.asked == [t for _, t, own in rows if own or switch]
    batch = batch_of(shards)
    asked = [own or switch for _, t, own in rows for _ in t]
    flat = [v for _, t, _ in rows for v in t]
    first = [v for v, yes in zip(flat, asked, strict=True) if yes]
    assert batch.scored_positions == len(first)
    rest = [v for v, yes in zip(flat, asked, strict=True) if not yes]
    assert batch.target_P.tolist() == first + rest
    assert batch.target_BT.flatten()[batch.index_P].tolist() == first + rest


def test_vanilla_asks_nobody() -> None:
    teacher = SlowTeacher()
    shards = written(configured("vanilla"), student(), 1.0, teacher)
    assert teacher.asked == [] and batch_of(shards).scored_positions == 0
    assert [t for _, t, _ in rows_of(shards)] == [TARGETS[i] for i in (0, 2, 4, 1, 3)]


# --------------------------------------------------------------------- which positions carry loss


def shard(
    targets: list[list[int]],
    labels: list[list[int] | None] | None = None,
    number: int = 0,
    first: int = 0,
) -> ScoredShard:
    """Rows with given targets; ``labels``: the teacher's best token at each position, or None."""
    scored = None
    if labels is not None:
        given = [(i, v) for i, v in enumerate(_flat(targets, labels)) if v is not None]
        ids = np.array([[v] for _, v in given], dtype=np.int32)
        sure = np.zeros((len(given), 1), dtype=np.float32)
        positions = np.array([i for i, _ in given], dtype=np.int64)
        scored = TeacherLabels(positions, ids, sure, np.full(len(given), -np.inf, dtype=np.float32))
    return ScoredShard(
        batch=0,
        shard=number,
        version=0,
        beta=0.0,
        sources=Ragged.of(SOURCES[first : first + len(targets)]),
        targets=Ragged.of(targets),
        from_student=np.zeros(len(targets), dtype=bool),  # the labels alone decide
        labels=scored,
    )


def _flat(targets: list[list[int]], labels: list[list[int] | None]) -> list[int | None]:
    rows = zip(targets, labels, strict=True)
    return [v for target, row in rows for v in (row or [None] * len(target))]


IMITKD = configured("imitkd")


def test_the_first_token_carries_loss() -> None:
    model = student()
    loss, _ = gradients(model, batch_of([shard([[7]])]), configured("vanilla"))
    assert loss == pytest.approx(-oracles.next_log_probs(model, SOURCES[0], [])[7])
    labelled, _ = gradients(model, batch_of([shard([[7]], [[5]])]), IMITKD)
    assert labelled == pytest.approx(-oracles.next_log_probs(model, SOURCES[0], [])[5])


def test_where_the_student_ended_early_the_teacher_may_prefer_to_go_on() -> None:
    model = student()
    batch = batch_of([shard([[7, EOS_ID]], [[7, 8]])])
    assert batch.positions == 2
    loss, slopes = gradients(model, batch, IMITKD)
    first = -oracles.next_log_probs(model, SOURCES[0], [])[7]
    at_end = -oracles.next_log_probs(model, SOURCES[0], [7])[8]
    assert loss == pytest.approx((first + at_end) / 2)
    agreed, _ = gradients(model, batch_of([shard([[7, EOS_ID]], [[7, EOS_ID]])]), IMITKD)
    assert agreed != pytest.approx(loss)
    # Descending makes the end less likely and the teacher's word more likely.
    assert slopes["logit_bias"][EOS_ID] > 0 > slopes["logit_bias"][8]


def test_a_target_cut_at_the_limit_carries_loss_to_its_last_token_only() -> None:
    model = student()
    loss, _ = gradients(model, batch_of([shard([[7, 4]])]), configured("vanilla"))
    expected = [
        -oracles.next_log_probs(model, SOURCES[0], [])[7],
        -oracles.next_log_probs(model, SOURCES[0], [7])[4],
    ]
    assert loss == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("method", ["vanilla", "imitkd"])
def test_nothing_in_padding_carries_loss(method: Method) -> None:
    config, model = configured(method), student()
    targets = [[7, EOS_ID], [4, 5, 6, 8, EOS_ID], [8, 8, EOS_ID]]
    labels: list[list[int] | None] = [[5, 6], None, [4, EOS_ID, 4]]
    batch = batch_of([shard(targets, labels if method == "imitkd" else None)])
    assert batch.positions == 10
    garbled = replace(batch, target_BT=batch.target_BT.clone(), source_BS=batch.source_BS.clone())
    for ids, lengths in (
        (garbled.target_BT, torch.tensor([2, 5, 3])),
        (garbled.source_BS, batch.source_lengths_B),
    ):
        padding = torch.arange(ids.shape[1]) >= lengths[:, None]
        assert padding.any()
        ids[padding] = 6
    clean, other = gradients(model, batch, config), gradients(model, garbled, config)
    assert clean[0] == pytest.approx(other[0], abs=1e-12) and close(clean[1], other[1])


def test_every_row_weighs_by_its_positions() -> None:
    config, model = configured("vanilla"), student()
    whole, slopes = gradients(model, batch_of([shard(TARGETS)]), config)
    positions = [len(t) for t in TARGETS]
    total, joined = 0.0, {n: torch.zeros_like(t) for n, t in slopes.items()}
    for row, count in enumerate(positions):
        part, slope = gradients(model, batch_of([shard([TARGETS[row]], first=row)]), config)
        share = count / sum(positions)
        total += share * part
        joined = {n: t + share * slope[n] for n, t in joined.items()}
    assert whole == pytest.approx(total) and close(slopes, joined)


# ------------------------------------------------------------------------------- chunks and shards


@pytest.mark.parametrize("chunk", [1, 3, 7, 14])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_size_of_chunks_does_not_matter(chunk: int, dropout: float) -> None:
    config = configured("imitkd", label_smoothing=0.1)
    model = student(dropout=dropout)
    batch = batch_of(written(config, model, 0.5))
    model.train()
    results = []
    for size in (chunk, 1024):
        model.dropout_source.begin_step(1, 1)
        results.append(gradients(model, batch, config, size))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert close(results[0][1], results[1][1])


def test_no_logits_beyond_a_chunk_and_none_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    config, model = configured("imitkd-full", top_k=3), student()
    batch = batch_of(written(config, model, 0.5))
    rows: list[int] = []
    plain = pieces.class_loss_out

    def spy(logits: Tensor, *arguments: Any) -> Tensor:
        assert logits.shape == arguments[-1].shape
        rows.append(len(logits))
        return plain(logits, *arguments)

    monkeypatch.setattr(pieces, "class_loss_out", spy)
    backward(model, batch, config.method, config.loss, chunk=4)
    assert max(rows) == 4 and sum(rows) == batch.positions < batch.target_BT.numel()


@pytest.mark.parametrize(("method", "loss", "beta"), CASES)
def test_fused_losses_change_no_gradient(method: Method, loss: dict[str, Any], beta: float) -> None:
    config, model = configured(method, **loss), student(dropout=0.2)
    batch = batch_of(written(config, model, beta))
    results = []
    for fused in (True, False):
        model.train()
        model.dropout_source.begin_step(1, 1)
        results.append(gradients(model, batch, config, 4, fused))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    assert close(results[0][1], results[1][1])


def test_gradients_equal_autograd_over_all_logits() -> None:
    config = configured("vanilla", label_smoothing=0.2)
    model = student()
    shards = written(config, model, 1.0)
    batch = batch_of(shards)
    found, slopes = gradients(model, batch, config, chunk=3)
    model.zero_grad(set_to_none=True)
    inputs = torch.full_like(batch.target_BT, model.config.start_id)
    inputs[:, 1:] = batch.target_BT[:, :-1]
    log_probs = model(batch.source_BS, batch.source_lengths_B, inputs).log_softmax(-1)
    losses = []
    for b, length in enumerate(len(t) for s in shards for t in s.targets.rows()):
        for t in range(length):
            row = log_probs[b, t]
            losses.append(-0.8 * row[batch.target_BT[b, t]] - 0.2 * row.mean())
    loss = torch.stack(losses).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert found == pytest.approx(loss.item())
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert close(slopes, expected)


@pytest.mark.parametrize("fused", [True, False])
def test_bf16_products_stay_near_float32(fused: bool) -> None:
    config = configured("imitkd-full", top_k=3)
    model = student().float()
    batch = batch_of(written(config, model, 0.5))
    exact, slopes = gradients(model, batch, config)
    model.zero_grad(set_to_none=True)
    loss = backward(model, batch, config.method, config.loss, precision="bf16", fused=fused)
    assert loss == pytest.approx(exact, rel=0.02) and loss != exact
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        error = (parameter.grad - slopes[name]).norm() / slopes[name].norm()
        assert error < 0.2, name


def test_gradients_are_added_to_what_is_there() -> None:
    config, model = configured("vanilla"), student()
    batch = batch_of([shard(TARGETS)])
    _, once = gradients(model, batch, config)
    backward(model, batch, config.method, config.loss)
    twice = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert close({n: 2 * g for n, g in once.items()}, twice)


CUTS = [[5], [1, 4], [4, 1], [2, 2, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(
    "config", [IMITKD, configured("imitkd-full", top_k=1)], ids=["opt", "full"]
)
def test_shards_cut_anywhere_give_the_same_batch(cut: list[int], config: RunConfig) -> None:
    full = config.method == "imitkd-full"
    labels: list[list[int] | None] = [
        [4 + (i + t) % 5 for t in range(len(y))] for i, y in enumerate(TARGETS)
    ]
    if not full:
        labels[1] = labels[4] = None
    model, shards, first = student(), [], 0
    for number, count in enumerate(cut):
        rows = slice(first, first + count)
        some = labels[rows] if full or any(labels[rows]) else None
        shards.append(shard(TARGETS[rows], some, number, first))
        first += count
    whole = gradients(model, batch_of([shard(TARGETS, labels)]), config)
    parts = gradients(model, batch_of(shards), config)
    assert whole[0] == pytest.approx(parts[0], rel=1e-12) and close(whole[1], parts[1], 1e-13)


def test_the_number_of_shards_does_not_change_a_batch() -> None:
    found = []
    for count in (1, 2, 5):
        config, model = configured("imitkd-full", count, top_k=3), student()
        shards = written(config, model, 0.5)
        assert sorted(rows_of(shards)) == sorted(rows_of(written(config, model, 0.5)))
        found.append((sorted(rows_of(shards)), *gradients(model, batch_of(shards), config)))
    for rows, loss, slopes in found[1:]:
        assert rows == found[0][0] and loss == pytest.approx(found[0][1], rel=1e-6)
        assert close(slopes, found[0][2], 1e-6)


@pytest.mark.parametrize(
    "change",
    [
        [{"shard": 0}, {"shard": 0}],
        [{"shard": 1}, {"shard": 0}],
        [{"shard": 1}],
        [{"shard": 0}, {"shard": 1, "batch": 1}],
        [{"shard": 0}, {"shard": 1, "version": 1}],
    ],
)
def test_shards_of_different_batches_are_refused(change: list[dict[str, int]]) -> None:
    with pytest.raises(ValueError, match="shards do not make up one batch"):
        batch_of([replace(shard(TARGETS), **values) for values in change])


def test_default_loss_settings_are_the_papers_approximation() -> None:
    loss = LossConfig()
    assert (loss.top_k, loss.tail, loss.temperature) == (64, "bucket", 1.0)
    assert not loss.teacher_labels_on_data_rows and loss.label_smoothing == 0
