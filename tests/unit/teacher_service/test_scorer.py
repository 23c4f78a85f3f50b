"""Payloads against a slow float64 oracle written like the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.refusals import NonFiniteOutput
from teacher_service.scorer import Scorer, largest, narrow_states, payload, top_k
from teacher_service.work import ScoreChoice, ScoreItem
from tests.unit.teacher_service.support import slow_log_probs, tiny_model

F16, F32 = pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_FLOAT32
ARGMAX, TOP_K, FULL = pb.PAYLOAD_KIND_ARGMAX, pb.PAYLOAD_KIND_TOP_K, pb.PAYLOAD_KIND_FULL
CANDIDATES, HIDDEN = pb.PAYLOAD_KIND_CANDIDATES, pb.PAYLOAD_KIND_HIDDEN


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
    return order[:k], slow_rest(row, order[:k])


def slow_rest(row: np.ndarray, chosen: list[int]) -> float:
    """Log of the mass of all ids but the chosen."""
    rest = [x for i, x in enumerate(row) if i not in chosen and x != -math.inf]
    if not rest:
        return -math.inf
    top = max(rest)
    return top + math.log(sum(math.exp(x - top) for x in rest))


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


@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("k", [1, 3, 11, 12])
def test_candidates_and_their_tail_equal_the_oracle(temperature, k):
    torch.manual_seed(k)
    logits = torch.randn(6, 12) * 4
    chosen = torch.stack([torch.randperm(12)[:k] for _ in range(6)])
    expected = slow(logits.tolist(), temperature)
    choice = ScoreChoice(CANDIDATES, F32, temperature, k)
    found = payload(choice, logits.clone(), torch.arange(6), chosen)
    assert set(found) == {"token_log_probs", "log_probs", "tail_log_mass"}
    for row in range(6):
        ids = chosen[row].tolist()
        assert found["log_probs"][row].numpy() == pytest.approx(expected[row][ids], abs=1e-5)
        tail = slow_rest(expected[row], ids)
        assert float(found["tail_log_mass"][row]) == pytest.approx(tail, abs=1e-5)
        assert float(found["token_log_probs"][row]) == pytest.approx(expected[row][row], abs=1e-5)


@pytest.mark.parametrize("chosen", [[0], [3], [1, 2]])
def test_candidates_far_above_and_far_below_the_rest_are_exact(chosen):
    logits = [[200.0, 0.0, -1.0, -150.0]]
    (row,) = slow(logits)
    choice = ScoreChoice(CANDIDATES, F32, 1.0, len(chosen))
    found = payload(choice, torch.tensor(logits), torch.tensor([0]), torch.tensor([chosen]))
    assert found["log_probs"][0].tolist() == pytest.approx(row[chosen], abs=1e-4)
    assert float(found["tail_log_mass"]) == pytest.approx(slow_rest(row, chosen), abs=1e-4)
    assert float(found["token_log_probs"]) == pytest.approx(row[0], abs=1e-4)


def test_the_tail_of_the_whole_vocabulary_is_minus_infinity_never_nan():
    choice = ScoreChoice(TOP_K, F16, 1.0, 4)
    found = payload(choice, torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert torch.isneginf(found["tail_log_mass"]).all()


def test_forbidden_tokens_may_be_minus_infinity_never_nan():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    for kind in (TOP_K, FULL, ARGMAX, CANDIDATES, HIDDEN):
        choice = ScoreChoice(kind, F16, 2.0, 2)
        found = payload(choice, logits.clone(), torch.tensor([2]), torch.tensor([[3, 0]]))
        assert not any(t.isnan().any() for t in found.values() if t.is_floating_point())
        assert torch.isneginf(found["token_log_probs"]).all()


def test_finite_log_probs_stay_finite_in_half_precision():
    logits = torch.tensor([[90000.0, 0.0]])
    found = payload(ScoreChoice(FULL, F16), logits, torch.tensor([1]))
    assert found["log_probs"].isfinite().all()


@pytest.mark.parametrize("kind", [ARGMAX, TOP_K, CANDIDATES, HIDDEN, FULL])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 2])
def test_non_finite_logits_are_an_error_not_a_payload(kind, bad, where):
    logits = torch.zeros(3, 4)
    logits[1, where] = bad  # among the chosen, and among the rest
    chosen = torch.zeros(3, 1).long()
    with pytest.raises(NonFiniteOutput, match="1 of 3 distributions"):
        payload(ScoreChoice(kind, F16, k=1), logits, chosen[:, 0], chosen)


@pytest.mark.parametrize("kind", [ARGMAX, TOP_K, CANDIDATES, HIDDEN, FULL])
def test_a_row_of_minus_infinity_is_an_error(kind):
    logits = torch.full((1, 4), -torch.inf)
    with pytest.raises(NonFiniteOutput):
        payload(ScoreChoice(kind, F16, k=2), logits, torch.zeros(1).long(), torch.tensor([[0, 3]]))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_ties_are_settled_by_id_within_and_at_the_cut(k):
    torch.manual_seed(0)
    scores = torch.randint(0, 3, (200, 8)).float()  # three values: ties everywhere
    values, ids = top_k(scores, k)
    for row in range(len(scores)):
        expected = sorted(range(8), key=lambda i: (-float(scores[row, i]), i))[:k]
        assert ids[row].tolist() == expected
        assert values[row].tolist() == scores[row, expected].tolist()


@pytest.mark.parametrize(("width", "k"), [(64, 1), (67, 1), (200, 5), (333, 9), (333, 300)])
def test_wide_rows_equal_the_oracle_ties_and_left_over_columns_included(width, k):
    torch.manual_seed(k)
    scores = torch.randint(0, width, (60, width)).float()
    scores[:20] = torch.randn(20, width)
    scores[20:30] = -torch.inf
    scores[25:30, width - 3] = 1.0
    values, ids = top_k(scores, k)
    for row in range(len(scores)):
        expected = sorted(range(width), key=lambda i: (-float(scores[row, i]), i))[:k]
        assert ids[row].tolist() == expected
        assert values[row].tolist() == scores[row, expected].tolist()


def test_nan_comes_first_among_the_largest_of_wide_rows():
    scores = torch.randn(5, 300)
    scores[:, 170] = torch.nan
    assert largest(scores, 4)[1][:, 0].tolist() == [170] * 5


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


@pytest.mark.parametrize("chunk", [1, 40 * 3, 1 << 20])
def test_chunks_keep_candidates_and_states_with_their_positions(chunk):
    model = tiny_model()
    items = [
        ScoreItem([5, 6, 7, 1], [8, 9, 1], np.array([[4, 39], [9, 0], [1, 8]], "<u2")),
        ScoreItem([5, 1], [], np.zeros((0, 2), "<u4")),
        ScoreItem([9, 9, 1], [4, 5, 6, 7], np.array([[4, 5]] * 4, "<i4")),
    ]
    scorer = Scorer(model, chunk)
    found = scorer.score(ScoreChoice(CANDIDATES, F32, 2.0, 2), items)
    for item, arrays in zip(items, found, strict=True):
        expected = slow_log_probs(model, item.source, item.target, 2.0)
        chosen = np.take_along_axis(expected, item.candidates.astype(int), axis=1)
        np.testing.assert_allclose(arrays["log_probs"], chosen, atol=2e-5)
    states = scorer.score(ScoreChoice(HIDDEN, F32, 2.0), items)
    for item, arrays in zip(items, states, strict=True):
        assert arrays["states"].shape == (len(item.target), 16)
        logits = model.project(torch.from_numpy(arrays["states"])).double()
        expected = slow_log_probs(model, item.source, item.target)
        np.testing.assert_allclose(logits.log_softmax(1).detach(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (65504.0, torch.float16, True),
        (65536.0, torch.float16, False),
        (-1e30, torch.float16, False),
        (-1e30, torch.float32, True),
        (1e39, torch.float32, False),
    ],
)
def test_states_are_sent_within_the_range_of_their_dtype_or_not_at_all(value, dtype, fits):
    states = torch.ones(3, 2, dtype=torch.float64)
    states[1, 0] = value
    if fits:
        assert narrow_states(states, dtype)[1, 0] == torch.tensor(value).to(dtype)
    else:
        with pytest.raises(NonFiniteOutput, match=r"states of 1 of 3 positions reach .*FLOAT32"):
            narrow_states(states, dtype)


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
