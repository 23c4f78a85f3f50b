"""Rows that join and leave a batch under way write what they would write alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.batch import pad_sequences
from seq2seq.decoding import Greedy, Hypothesis, LengthLimit, Sample, generate
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.inflight import IDLE_SHARE, likeliest
from seq2seq.transformer_state import CAPACITY_STEP
from tests.builders import RECURRENT, sentences, step_sizes, tiny_model

V = 13
# Longer than the first capacity of a cache, so that caches grow while rows lag behind.
LIMIT = LengthLimit(ratio=4.0, offset=3, cap=45)


SHAPES: dict[str, dict[str, Any]] = {
    "pre": {},
    "post": {"norm": "post"},
    "marian": {"kind": "recurrent", "norm": "post"},
    **RECURRENT,
}


def lively(seed: int, shape: str = "pre") -> EncoderDecoder:
    return tiny_model(seed, vocab_size=V, end_bias=-0.5, spread=0.5, **SHAPES[shape])


def ids(found: list[list[Hypothesis]]) -> list[tuple[list[int], bool]]:
    return [(h.ids, h.finished) for (h,) in found]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 50),
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=12),
    prefixes=st.lists(st.integers(0, 9), min_size=12, max_size=12),
    rows=st.integers(1, 5),
    every=st.sampled_from([1, 4]),
    mode=st.sampled_from([Greedy(), Sample(4, 0.8, 5), Sample(0, 1.3, 6)]),
    shape=st.sampled_from(sorted(SHAPES)),
)
def test_company_changes_nothing(
    seed: int,
    lengths: list[int],
    prefixes: list[int],
    rows: int,
    every: int,
    mode: Greedy | Sample,
    shape: str,
) -> None:
    model, sources = lively(seed % 5, shape), sentences(seed, lengths, V)
    forced = [[4 + (n + i) % 8 for i in range(k)] for n, k in enumerate(prefixes[: len(lengths)])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq2seq.inflight.STEPS_BETWEEN_LOOKS", {"cpu": every})
        together = generate(model, sources, mode, limit=LIMIT, batch_rows=rows, prefixes=forced)
    for number, (found,) in enumerate(together):
        ((alone,),) = generate(
            model, [sources[number]], mode, limit=LIMIT, keys=[number], prefixes=[forced[number]]
        )
        assert (found.ids, found.finished) == (alone.ids, alone.finished)
        assert found.log_prob == pytest.approx(alone.log_prob, abs=1e-3)


@pytest.mark.parametrize("longest", [5, 6, 7, 8])
def test_rows_may_run_past_the_models_own_limit(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the end of a row is seen some steps later."""
    limits = {"max_source_length": longest, "max_target_length": longest}
    model = tiny_model(21, vocab_size=V, end_bias=-9.0, **limits)
    sources = sentences(1, [longest, 2, 3], V)
    monkeypatch.setattr("seq2seq.inflight.STEPS_BETWEEN_LOOKS", {"cpu": 4})
    for (found,) in generate(model, sources, Greedy(), limit=LengthLimit(0.0, 40, 40)):
        assert len(found.ids) == longest and not found.finished


def test_caches_shrink_when_the_longest_leaves() -> None:
    model, sources = lively(1), sentences(1, [4, 3], V)
    with torch.inference_mode():
        state = model.start(model.encode(*pad_sequences(sources[:1], 0)))
        for _ in range(40):
            model.step(torch.tensor([5]), state)
        state.extend(model.start(model.encode(*pad_sequences(sources[1:], 0))))
        model.step(torch.tensor([5, 3]), state)
        state.keep_sources(torch.tensor([1]))
    assert state.position == 1 and state.own[0].length == CAPACITY_STEP


def test_sources_without_ids_and_batches_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="a source has no ids"):
        generate(lively(1), [[4, 1], []], Greedy())
    with pytest.raises(ValueError, match="batch_rows 0 must be at least 1"):
        generate(lively(1), [[4, 1]], Greedy(), batch_rows=0)


def test_the_batch_stays_full_while_sources_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(1), sentences(3, [2, 9, 4, 1, 7, 3, 8, 5, 6, 2, 3, 10] * 4, V)
    sizes = step_sizes(model, monkeypatch)
    found = generate(model, sources, Greedy(), limit=LIMIT, batch_rows=8)
    written = sum(len(h.ids) for (h,) in found)
    longest = max(len(h.ids) for (h,) in found)
    assert max(sizes) == 8 and all(size == 8 for size in sizes[:-longest])
    # Idle rows are the only waste: fewer than one in four, and the tail of the last rows.
    assert written <= sum(sizes) <= written / (1 - IDLE_SHARE) + 8 * longest


def test_finished_rows_leave_when_a_quarter_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(2), sentences(5, [3, 9, 4, 1, 7, 3, 8, 5, 6, 2], V)
    sizes = step_sizes(model, monkeypatch)
    found = generate(model, sources, Greedy(), limit=LIMIT)
    lengths = [len(h.ids) for (h,) in found]
    live = [sum(n > t for n in lengths) for t in range(max(lengths))]
    assert len(sizes) == len(live) and len(set(live)) > 3
    for size, going in zip(sizes, live, strict=True):
        assert going <= size and size - going < IDLE_SHARE * size


def test_a_source_longer_than_the_budget_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = lively(3), sentences(5, [9, 8, 2, 2], V)
    sizes = step_sizes(model, monkeypatch)
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


@given(
    width=st.integers(1, 700),
    seed=st.integers(0, 1000),
    values=st.sampled_from([3, 50, 10**6]),
)
@settings(deadline=None)
def test_the_likeliest_is_the_first_of_the_largest(width: int, seed: int, values: int) -> None:
    """Few different values make many equals, in one block and across blocks."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, values, (5, width), generator=generator).float()
    logits[0] = -torch.inf
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert likeliest(logits).tolist() == expected
