"""Payloads against a slow float64 oracle written like the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.refusals import NonFiniteOutput
from teacher_service.scorer import Scorer, payload, top_k
from teacher_service.work import ScoreChoice, ScoreItem
from tests.unit.teacher_service.support import slow_log_probs, tiny_model

F16, F32 = pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_FLOAT32
ARGMAX, TOP_K, FULL = pb.PAYLOAD_KIND_ARGMAX, pb.PAYLOAD_KIND_TOP_K, pb.PAYLOAD_KIND_FULL


def slow(logits: list[list[float]], temperature: float = 1.0) -> np.ndarray:
    """log softmax(logits / temperature), one number after another."""
    rows = []
    for row in logits:
        scaled = [x / temperature for x in row]
        top = max(scaled)
        log_sum = top + math.log(sum(math.exp(x - top) for x in scaled))
        rows.append([x - log_sum for x in scaled])
    return np.array(rows)


def slow_top_k(row: np.ndarray, k: int) -> tuple[list[int], float]:
    """Ids of the k likeliest, ties by id, and log of the rest's mass."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    rest = [row[i] for i in order[k:] if row[i] != -math.inf]
    if not rest:
        return order[:k], -math.inf
    top = max(rest)
    return order[:k], top + math.log(sum(math.exp(x - top) for x in rest))


@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("k", [1, 3, 11, 12])
def test_top_k_and_tail_equal_the_oracle(temperature, k):
    torch.manual_seed(k)
    logits = torch.randn(6, 12) * 4
    expected = slow(logits.tolist(), temperature)
    targets = torch.arange(6)
    choice = ScoreChoice(TOP_K, F32, temperature, k)
    found = payload(choice, logits.clone(), targets)
    for row in range(6):
        ids, tail = slow_top_k(expected[row], k)
        assert found["ids"][row].tolist() == ids
        assert found["log_probs"][row].numpy() == pytest.approx(expected[row][ids], abs=1e-5)
        assert float(found["tail_log_mass"][row]) == pytest.approx(tail, abs=1e-5)
        assert float(found["token_log_probs"][row]) == pytest.approx(expected[row][row], abs=1e-5)


def test_the_tail_is_right_where_one_minus_the_top_would_cancel():
    logits = torch.tensor([[40.0, 0.0, -1.0, -2.0], [200.0, 0.0, 0.0, 0.0]])
    choice = ScoreChoice(TOP_K, F32, 1.0, 1)
    found = payload(choice, logits.clone(), torch.tensor([0, 0]))
    expected = [slow_top_k(row, 1)[1] for row in slow(logits.tolist())]
    assert expected[0] == pytest.approx(-39.59, abs=0.01)
    assert found["tail_log_mass"].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_tail_of_the_whole_vocabulary_is_minus_infinity_never_nan():
    choice = ScoreChoice(TOP_K, F16, 1.0, 4)
    found = payload(choice, torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert torch.isneginf(found["tail_log_mass"]).all()


def test_forbidden_tokens_may_be_minus_infinity_never_nan():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    for kind in (TOP_K, FULL, ARGMAX):
        choice = ScoreChoice(kind, F16, 2.0, 2)
        found = payload(choice, logits.clone(), torch.tensor([2]))
        assert not any(t.isnan().any() for t in found.values() if t.is_floating_point())
        assert torch.isneginf(found["token_log_probs"]).all()


def test_finite_log_probs_stay_finite_in_half_precision():
    logits = torch.tensor([[90000.0, 0.0]])
    found = payload(ScoreChoice(FULL, F16), logits, torch.tensor([1]))
    assert found["log_probs"].isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_logits_are_an_error_not_a_payload(bad):
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    with pytest.raises(NonFiniteOutput, match="1 of 3 distributions"):
        payload(ScoreChoice(ARGMAX, F16), logits, torch.zeros(3, dtype=torch.int64))


def test_a_row_of_minus_infinity_is_an_error():
    logits = torch.full((1, 4), -torch.inf)
    with pytest.raises(NonFiniteOutput):
        payload(ScoreChoice(ARGMAX, F16), logits, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_ties_are_settled_by_id_within_and_at_the_cut(k):
    torch.manual_seed(0)
    scores = torch.randint(0, 3, (200, 8)).float()  # three values: ties everywhere
    values, ids = top_k(scores, k)
    for row in range(len(scores)):
        expected = sorted(range(8), key=lambda i: (-float(scores[row, i]), i))[:k]
        assert ids[row].tolist() == expected
        assert values[row].tolist() == scores[row, expected].tolist()


def test_argmax_takes_the_smallest_id_among_equals():
    found = payload(
        ScoreChoice(ARGMAX, F32), torch.tensor([[1.0, 7.0, 7.0]]), torch.zeros(1).long()
    )
    assert found["ids"].tolist() == [1]


@pytest.mark.parametrize("chunk", [1, 40 * 3, 1 << 20])
def test_chunks_of_the_projection_change_nothing(chunk):
    model = tiny_model()
    items = [
        ScoreItem([5, 6, 7, 1], [8, 9, 1]),
        ScoreItem([5, 1], []),
        ScoreItem([9, 9, 9, 9, 9, 1], [4, 5, 6, 7, 8, 9, 10]),
    ]
    found = Scorer(model, chunk).score(ScoreChoice(FULL, F32), items)
    for item, arrays in zip(items, found, strict=True):
        expected = slow_log_probs(model, item.source, item.target)
        assert arrays["log_probs"].shape == (len(item.target), 40)
        np.testing.assert_allclose(arrays["log_probs"], expected, atol=2e-5)
        actual = expected[np.arange(len(item.target)), list(item.target)]
        np.testing.assert_allclose(arrays["token_log_probs"], actual, atol=2e-5)


def test_a_batch_without_positions_runs_no_model():
    model = tiny_model()
    model.encode = None  # type: ignore[method-assign, assignment]
    found = Scorer(model).score(ScoreChoice(TOP_K, F16, k=3), [ScoreItem([5, 1], [])] * 2)
    assert [arrays["ids"].shape for arrays in found] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(40, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_ids_travel_as_narrow_as_the_vocabulary_allows(vocabulary, dtype):
    model = tiny_model(vocab_size=vocabulary, d_model=4, heads=1, ffn=4)
    (found,) = Scorer(model).score(ScoreChoice(ARGMAX, F16), [ScoreItem([5, 1], [5])])
    assert found["ids"].dtype == np.dtype(dtype)
