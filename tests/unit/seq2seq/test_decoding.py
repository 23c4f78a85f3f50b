"""Greedy and sampled decoding against a decoder that reads the whole prefix for every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq.decoding import (
    Beam,
    Greedy,
    Hypothesis,
    LengthLimit,
    Sample,
    Unwanted,
    generate,
)
from seq2seq.transformer import Transformer
from seq2seq.vocabulary import EOS_ID, PAD_ID, START_ID
from tests import oracles
from tests.builders import sentences, step_sizes, tiny_model

V = 9
LENGTHS = [3, 7, 1, 5, 5, 2, 9, 4]
LIMIT = LengthLimit(ratio=1.5, offset=2, cap=12)
MODES = [
    pytest.param(Greedy(), id="greedy"),
    pytest.param(Sample(top_k=3, seed=5), id="sample"),
    pytest.param(Beam(3, n_best=3), id="beam"),
]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(2, vocab_size=V, end_bias=0.0, spread=0.5)  # writes 1 to 12 ids


SOURCES = sentences(3, LENGTHS, V)


def ids_of(found: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[h.ids for h in row] for row in found]


def same(a: list[list[Hypothesis]], b: list[list[Hypothesis]]) -> bool:
    close = all(
        x.log_prob == pytest.approx(y.log_prob, abs=1e-4) and x.finished == y.finished
        for left, right in zip(a, b, strict=True)
        for x, y in zip(left, right, strict=True)
    )
    return close and ids_of(a) == ids_of(b)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sample(top_k=-1), "top_k -1"),
        (lambda: Sample(temperature=0.0), "temperature 0.0 must be positive"),
        (lambda: Sample(temperature=-1.0), "temperature -1.0"),
        (lambda: Sample(temperature=float("nan")), "temperature nan"),
        (lambda: Beam(size=0), "beam size 0"),
        (lambda: Beam(size=3, n_best=4), "n_best 4 .* beam size 3"),
        (lambda: Beam(size=3, n_best=0), "n_best 0"),
    ],
)
def test_settings_out_of_range_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_training_mode_comes_back_even_after_a_fault(model: Transformer) -> None:
    model.train()
    try:
        generate(model, SOURCES[:1], Greedy(), limit=LIMIT)
        assert model.training
        with pytest.raises(IndexError):
            generate(model, [[V + 5, EOS_ID]], Greedy())
        assert model.training
    finally:
        model.eval()


@pytest.mark.parametrize("mode", MODES)
def test_what_nobody_waits_for_ends_at_its_next_step(
    model: Transformer, mode: Greedy | Sample | Beam, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = step_sizes(model, monkeypatch)
    answers = [True, True, False]
    with pytest.raises(Unwanted):
        generate(model, SOURCES, mode, limit=LIMIT, wanted=lambda: answers.pop(0))
    assert answers == [] and len(steps) == 2


@pytest.mark.parametrize("mode", MODES)
def test_nothing_in_nothing_out(model: Transformer, mode: Greedy | Sample | Beam) -> None:
    assert generate(model, [], mode) == []


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 3), (2, 5), (3, 6), (7, 12), (40, 12)], ids=lambda v: str(v)
)
def test_length_limit_is_floored_and_capped(length: int, expected: int) -> None:
    assert LIMIT.of(length) == expected


def test_length_limit_is_never_below_one() -> None:
    assert LengthLimit(ratio=0, offset=0, cap=5).of(9) == 1


def test_greedy_equals_the_full_prefix_decoder(model: Transformer) -> None:
    found = generate(model, SOURCES, Greedy(), limit=LIMIT)
    expected = [oracles.greedy(model, s, LIMIT.of(len(s))) for s in SOURCES]
    assert ids_of(found) == [[ids] for ids in expected]
    lengths = {len(ids) for ids in expected}
    finished = {h.finished for (h,) in found}
    assert len(lengths) > 3 and finished == {True, False}, "the examples are too easy"


@pytest.mark.parametrize("mode", MODES)
def test_log_prob_is_that_of_the_ids_written(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    for source, hypotheses in zip(
        SOURCES, generate(model, SOURCES, mode, limit=LIMIT), strict=True
    ):
        for h in hypotheses:
            expected = oracles.sequence_log_prob(model, source, h.ids)
            assert h.log_prob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_batched_equals_single_and_order_is_kept(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    together = generate(model, SOURCES, mode, limit=LIMIT)
    alone = [generate(model, [s], mode, limit=LIMIT, keys=[i])[0] for i, s in enumerate(SOURCES)]
    assert same(together, alone)
    assert len({tuple(row[0].ids) for row in together}) > 4, "the examples are too easy"


@pytest.mark.parametrize("batch_tokens", [1, 12, 40])
@pytest.mark.parametrize("mode", MODES)
def test_the_size_of_batches_does_not_matter(
    model: Transformer, mode: Greedy | Sample | Beam, batch_tokens: int
) -> None:
    small = generate(model, SOURCES, mode, limit=LIMIT, batch_tokens=batch_tokens)
    assert same(small, generate(model, SOURCES, mode, limit=LIMIT))


def test_batches_keep_to_their_budget(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    encode = model.encode

    def spy(source: torch.Tensor, lengths: torch.Tensor) -> Any:
        shapes.append(tuple(source.shape))
        return encode(source, lengths)

    monkeypatch.setattr(model, "encode", spy)
    generate(model, SOURCES, Greedy(), limit=LIMIT, batch_tokens=12)
    assert sum(rows for rows, _ in shapes) == len(SOURCES)
    assert all(rows * width <= 12 for rows, width in shapes) and len(shapes) < len(SOURCES)
    shapes.clear()
    generate(model, SOURCES, Beam(3), limit=LIMIT, batch_tokens=24)
    assert all(rows * width * 3 <= 24 or rows == 1 for rows, width in shapes)


def test_arrays_are_sources_and_prefixes_too(model: Transformer) -> None:
    arrays = [np.array(s, dtype=np.int32) for s in SOURCES]
    prefixes = [np.array([4, 5], dtype=np.uint16)] * len(SOURCES)
    assert same(
        generate(model, arrays, Greedy(), limit=LIMIT, prefixes=prefixes),
        generate(model, SOURCES, Greedy(), limit=LIMIT, prefixes=[[4, 5]] * len(SOURCES)),
    )


@pytest.mark.parametrize("mode", MODES)
def test_outputs_end_with_eos_or_at_the_limit(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    for source, row in zip(SOURCES, generate(model, SOURCES, mode, limit=LIMIT), strict=True):
        for h in row:
            limit = LIMIT.of(len(source))
            assert h.ids.count(EOS_ID) == int(h.finished)
            assert h.ids[-1] == EOS_ID if h.finished else len(h.ids) == limit
            assert len(h.ids) <= limit


@pytest.mark.parametrize("mode", MODES)
def test_the_models_own_limit_holds(mode: Greedy | Sample | Beam) -> None:
    short = tiny_model(21, vocab_size=V, end_bias=-9.0, max_target_length=5)
    for row in generate(short, SOURCES, mode, limit=LengthLimit(offset=40)):
        assert all(len(h.ids) == 5 and not h.finished for h in row)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", [PAD_ID, EOS_ID])
def test_a_start_symbol_may_be_the_padding_or_the_end(
    mode: Greedy | Sample | Beam, start: int
) -> None:
    model = tiny_model(23, vocab_size=V, start_id=start)
    rows = generate(model, SOURCES, mode, limit=LIMIT)
    for source, row in zip(SOURCES, rows, strict=True):
        for h in row:
            assert PAD_ID not in h.ids
            expected = oracles.sequence_log_prob(model, source, h.ids)
            assert h.log_prob == pytest.approx(expected, abs=1e-3)
    assert any(h.finished for row in rows for h in row)


@pytest.mark.parametrize("mode", MODES)
def test_pad_and_start_are_never_written(mode: Greedy | Sample | Beam) -> None:
    eager = tiny_model(22, vocab_size=V)
    with torch.no_grad():
        eager.logit_bias[PAD_ID] = eager.logit_bias[START_ID] = 30.0
    for source, row in zip(SOURCES, generate(eager, SOURCES, mode, limit=LIMIT), strict=True):
        for h in row:
            assert not {PAD_ID, START_ID} & set(h.ids)
            expected = oracles.sequence_log_prob(eager, source, h.ids)
            assert h.log_prob == pytest.approx(expected, abs=1e-3)


def test_finished_sentences_leave_the_batch_of_a_beam_search(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = step_sizes(model, monkeypatch)
    generate(model, SOURCES, Beam(3), limit=LIMIT)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert all(size % 3 == 0 for size in sizes)


# ------------------------------------------------------------------------------- forced prefixes

PREFIXES: list[list[int]] = [[8, 8, 8], [], [4], [5, 8], [7, 7, 7, 7], [], [6], [4, 4]]


@pytest.mark.parametrize("mode", MODES)
def test_prefixes_are_forced_and_cost_nothing(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    found = generate(model, SOURCES, mode, limit=LIMIT, prefixes=PREFIXES)
    free = generate(model, SOURCES, mode, limit=LIMIT)
    for source, prefix, row, other in zip(SOURCES, PREFIXES, found, free, strict=True):
        for h in row:
            head = prefix[: LIMIT.of(len(source))]
            assert h.ids[: len(head)] == head
            expected = oracles.sequence_log_prob(model, source, h.ids, forced=len(head))
            assert h.log_prob == pytest.approx(expected, abs=1e-4)
        if not prefix:
            assert same([row], [other])


def test_greedy_goes_on_from_the_prefix(model: Transformer) -> None:
    found = generate(model, SOURCES, Greedy(), limit=LIMIT, prefixes=PREFIXES)
    for source, prefix, (h,) in zip(SOURCES, PREFIXES, found, strict=True):
        assert h.ids == oracles.greedy(model, source, LIMIT.of(len(source)), prefix)


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_longer_than_the_limit_is_cut(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    (row,) = generate(
        model, [[5, EOS_ID]], mode, limit=LengthLimit(0, 3, 3), prefixes=[[4, 5, 6, 7, 8]]
    )
    assert (row[0].ids, row[0].log_prob, row[0].finished) == ([4, 5, 6], 0.0, False)


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_that_ends_is_the_whole_answer(
    model: Transformer, mode: Greedy | Sample | Beam
) -> None:
    (row,) = generate(model, [[5, EOS_ID]], mode, limit=LIMIT, prefixes=[[4, EOS_ID]])
    assert row == [Hypothesis([4, EOS_ID], 0.0, True)]


# ------------------------------------------------------------------------------------- sampling


def test_samples_depend_on_seed_and_key_alone(model: Transformer) -> None:
    keys = [100 + i for i in range(len(SOURCES))]
    mode = Sample(top_k=5, seed=3)
    found = generate(model, SOURCES, mode, limit=LIMIT, keys=keys)
    for order in ([7, 6, 5, 4, 3, 2, 1, 0], [2, 5], [6]):
        part = generate(
            model, [SOURCES[i] for i in order], mode, limit=LIMIT, keys=[keys[i] for i in order]
        )
        assert same(part, [found[i] for i in order])
    other_seed = generate(model, SOURCES, Sample(5, seed=4), limit=LIMIT, keys=keys)
    other_keys = generate(model, SOURCES, mode, limit=LIMIT)
    assert ids_of(other_seed) != ids_of(found) != ids_of(other_keys)


def test_a_neighbour_that_leaves_early_changes_no_sample(model: Transformer) -> None:
    mode = Sample(top_k=0, seed=1)
    source = SOURCES[1]
    (alone,) = generate(model, [source], mode, limit=LIMIT, keys=[55])
    prefixes: list[list[int]] = [[EOS_ID], [], [4, EOS_ID]]
    together = generate(
        model, [source, source, source], mode, limit=LIMIT, keys=[1, 55, 2], prefixes=prefixes
    )
    assert same([together[1]], [alone])


def test_equal_keys_draw_equal_samples_and_others_differ(model: Transformer) -> None:
    found = generate(model, [SOURCES[1]] * 6, Sample(seed=2), limit=LIMIT, keys=[7, 7, 8, 9, 10, 7])
    texts = [tuple(row[0].ids) for row in found]
    assert texts[0] == texts[1] == texts[5] and len(set(texts)) > 2


@pytest.mark.parametrize("mode", [Sample(top_k=1), Sample(temperature=1e-3)])
def test_a_sample_without_choice_is_greedy(model: Transformer, mode: Sample) -> None:
    assert same(
        generate(model, SOURCES, mode, limit=LIMIT), generate(model, SOURCES, Greedy(), limit=LIMIT)
    )


def drawn(
    model: Transformer, source: Sequence[int], mode: Sample, length: int, count: int
) -> Counter[tuple[int, ...]]:
    found = generate(
        model, [source] * count, mode, limit=LengthLimit(0, length, length), batch_tokens=1 << 20
    )
    return Counter(tuple(h.ids) for (h,) in found)


def check_distribution(counts: Counter[Any], expected: dict[Any, float]) -> None:
    assert set(counts) <= set(expected)
    total = counts.total()
    common = [v for v, p in expected.items() if p * total >= 8]
    rest = [v for v in expected if v not in common]
    observed, shares = [counts[v] for v in common], [expected[v] for v in common]
    if sum(expected[v] for v in rest) * total >= 8:
        observed.append(sum(counts[v] for v in rest))
        shares.append(sum(expected[v] for v in rest))
    assert len(observed) > 2
    shares = [s / sum(shares) for s in shares]
    assert abs(oracles.chi_square(observed, shares)) < 4


@pytest.mark.parametrize(
    ("top_k", "temperature"), [(0, 1.0), (4, 1.0), (4, 0.5), (0, 2.5), (50, 1.0)]
)
def test_samples_follow_the_softmax_over_the_top_k(
    model: Transformer, top_k: int, temperature: float
) -> None:
    source = SOURCES[3]
    counts = drawn(model, source, Sample(top_k, temperature, seed=11), length=1, count=3000)
    log_probs = oracles.writable(model, source, [])
    expected = oracles.top_k_distribution(log_probs, top_k, temperature)
    check_distribution(counts, {(v,): p for v, p in expected.items() if p > 0})
    assert len(counts) == (min(top_k, V - 2) if top_k else V - 2) or top_k == 0


def test_successive_tokens_are_drawn_independently(model: Transformer) -> None:
    source, top_k = SOURCES[1], 3
    counts = drawn(model, source, Sample(top_k, seed=12), length=2, count=3000)
    expected: dict[tuple[int, ...], float] = {}
    first = oracles.top_k_distribution(oracles.writable(model, source, []), top_k, 1.0)
    for a, p in first.items():
        if a == EOS_ID:
            expected[(a,)] = p
            continue
        then = oracles.writable(model, source, [a])
        for b, q in oracles.top_k_distribution(then, top_k, 1.0).items():
            expected[(a, b)] = p * q
    check_distribution(counts, expected)
