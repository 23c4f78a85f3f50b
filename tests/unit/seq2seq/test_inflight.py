"""Rows that join and leave a batch under way write what they would write alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.decoding import Greedy, Hypothesis, LengthLimit, Sample, generate
from seq2seq.inflight import IDLE_SHARE
from seq2seq.transformer import Transformer
from tests.builders import sentences, tiny_model

V = 13
# Longer than the first capacity of a cache, so that caches grow while rows lag behind.
LIMIT = LengthLimit(ratio=4.0, offset=3, cap=45)


def lively(seed: int, norm: str = "pre") -> Transformer:
    return tiny_model(seed, vocab_size=V, end_bias=-0.5, spread=0.5, norm=norm)


def ids(found: list[list[Hypothesis]]) -> list[tuple[list[int], bool]]:
    return [(h.ids, h.finished) for (h,) in found]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 50),
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=12),
    rows=st.integers(1, 5),
    sampled=st.booleans(),
    norm=st.sampled_from(["pre", "post"]),
)
def test_company_changes_nothing(
    seed: int, lengths: list[int], rows: int, sampled: bool, norm: str
) -> None:
    model, sources = lively(seed % 5, norm), sentences(seed, lengths, V)
    mode = Sample(4, 0.8, seed) if sampled else Greedy()
    together = generate(model, sources, mode, limit=LIMIT, batch_rows=rows)
    for number, (source, (found,)) in enumerate(zip(sources, together, strict=True)):
        ((alone,),) = generate(model, [source], mode, limit=LIMIT, keys=[number])
        assert (found.ids, found.finished) == (alone.ids, alone.finished)
        assert found.log_prob == pytest.approx(alone.log_prob, abs=1e-3)


def watched(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the steps to come."""
    sizes: list[int] = []
    step = model.step

    def spy(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        sizes.append(len(tokens))
        return step(tokens, state)

    monkeypatch.setattr(model, "step", spy)
    return sizes


def test_the_batch_stays_full_while_sources_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(1), sentences(3, [2, 9, 4, 1, 7, 3, 8, 5, 6, 2, 3, 10] * 4, V)
    sizes = watched(model, monkeypatch)
    found = generate(model, sources, Greedy(), limit=LIMIT, batch_rows=8)
    written = sum(len(h.ids) for (h,) in found)
    longest = max(len(h.ids) for (h,) in found)
    assert max(sizes) == 8 and all(size == 8 for size in sizes[:-longest])
    # Idle rows are the only waste: fewer than one in four, and the tail of the last rows.
    assert written <= sum(sizes) <= written / (1 - 1 / IDLE_SHARE) + 8 * IDLE_SHARE


def test_finished_rows_leave_when_a_quarter_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(2), sentences(5, [3, 9, 4, 1, 7, 3, 8, 5, 6, 2], V)
    sizes = watched(model, monkeypatch)
    found = generate(model, sources, Greedy(), limit=LIMIT)
    lengths = [len(h.ids) for (h,) in found]
    live = [sum(n > t for n in lengths) for t in range(max(lengths))]
    assert len(sizes) == len(live) and len(set(live)) > 3
    for size, going in zip(sizes, live, strict=True):
        assert going <= size and (size - going) * IDLE_SHARE < size


def test_a_source_longer_than_the_budget_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(3), sentences(5, [9, 8, 2, 2], V)
    sizes = watched(model, monkeypatch)
    found = generate(model, sources, Greedy(), limit=LIMIT, batch_tokens=4)
    assert sizes[0] == 1 and max(sizes) == 2
    assert ids(found) == ids(generate(model, sources, Greedy(), limit=LIMIT))


def test_log_probs_can_be_left_out() -> None:
    model, sources = lively(4), sentences(7, [3, 5, 2], V)
    with_them = generate(model, sources, Greedy(), limit=LIMIT)
    without = generate(model, sources, Greedy(), limit=LIMIT, log_probs=False)
    assert ids(with_them) == ids(without)
    assert all(h.log_prob == 0.0 for (h,) in without) and with_them[0][0].log_prob < 0


@pytest.mark.parametrize("every", [2, 5])
def test_looking_seldom_changes_nothing(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where rows may run on for some steps after their end."""
    model, sources = lively(1), sentences(9, [11, 3, 6, 1, 4, 9, 2, 2], V)
    expected = generate(model, sources, Greedy(), limit=LIMIT, batch_rows=3)
    monkeypatch.setattr("seq2seq.inflight.STEPS_BETWEEN_LOOKS", {"cpu": every})
    assert ids(generate(model, sources, Greedy(), limit=LIMIT, batch_rows=3)) == ids(expected)
