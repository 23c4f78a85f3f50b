"""Beam search against a slow one, and against the enumeration of every possible target."""

from __future__ import annotations

from typing import Any

import pytest

from seq2seq.decoding import Beam, Greedy, LengthLimit, generate
from seq2seq.encoder_decoder import EncoderDecoder
from tests import oracles
from tests.builders import RECURRENT, sentences, tiny_model

V = 9
LIMIT = LengthLimit(ratio=1.0, offset=2, cap=7)
SOURCES = sentences(4, [3, 6, 1, 4, 4, 2], V)


def lively(seed: int, **shape: Any) -> EncoderDecoder:
    return tiny_model(seed, vocab_size=V, end_bias=0.0, spread=0.5, **shape)


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return lively(10)  # early ends are overtaken by longer hypotheses


def score(log_prob: float, ids: list[int], penalty: float) -> float:
    return log_prob / len(ids) ** penalty


@pytest.mark.parametrize("seed", [2, 10, 21])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_of_one_is_greedy(seed: int, penalty: float) -> None:
    model = lively(seed)
    beams = generate(model, SOURCES, Beam(1, length_penalty=penalty), limit=LIMIT)
    for (found,), (greedy,) in zip(
        beams, generate(model, SOURCES, Greedy(), limit=LIMIT), strict=True
    ):
        assert (found.ids, found.finished) == (greedy.ids, greedy.finished)
        assert found.log_prob == pytest.approx(greedy.log_prob, abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_equals_the_slow_beam_search(model: EncoderDecoder, size: int, penalty: float) -> None:
    """The slow one never stops before the limit, so stopping early loses nothing."""
    found = generate(model, SOURCES, Beam(size, size, penalty, exact=True), limit=LIMIT)
    for source, row in zip(SOURCES, found, strict=True):
        expected = oracles.beam(
            model, source, size=size, limit=LIMIT.of(len(source)), length_penalty=penalty
        )
        assert [(h.ids, h.finished) for h in row] == [(ids, done) for ids, _, done in expected]
        assert [h.log_prob for h in row] == pytest.approx([s for _, s, _ in expected], abs=1e-4)


@pytest.mark.parametrize("shape", RECURRENT)
def test_a_recurrent_decoder_equals_the_slow_beam_search(shape: str) -> None:
    model = lively(10, **RECURRENT[shape])
    found = generate(model, SOURCES, Beam(3, 3, exact=True), limit=LIMIT)
    for source, row in zip(SOURCES, found, strict=True):
        expected = oracles.beam(model, source, size=3, limit=LIMIT.of(len(source)))
        assert [(h.ids, h.finished) for h in row] == [(ids, done) for ids, _, done in expected]


def test_equals_the_slow_beam_search_behind_prefixes(model: EncoderDecoder) -> None:
    prefixes: list[list[int]] = [[8, 8], [], [4], [5, 8, 6], [7], []]
    found = generate(model, SOURCES, Beam(3, 3, exact=True), limit=LIMIT, prefixes=prefixes)
    for source, prefix, row in zip(SOURCES, prefixes, found, strict=True):
        expected = oracles.beam(model, source, size=3, limit=LIMIT.of(len(source)), prefix=prefix)
        assert [h.ids for h in row] == [ids for ids, _, _ in expected]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.7])
def test_a_beam_of_everything_finds_what_enumeration_finds(penalty: float) -> None:
    model = tiny_model(36, vocab_size=6)
    source, limit = [4, 5, 4, 1], 3
    every = oracles.all_targets(model, source, limit)
    assert len(every) == 40
    every.sort(key=lambda e: -score(e[1], e[0], penalty))
    (found,) = generate(
        model, [source], Beam(40, 40, penalty, exact=True), limit=LengthLimit(0, limit, limit)
    )
    assert len(found) == 40
    for h, (ids, log_prob, finished) in zip(found[:12], every, strict=False):
        assert (h.ids, h.finished) == (ids, finished)
        assert h.log_prob == pytest.approx(log_prob, abs=1e-4)
    assert {tuple(h.ids) for h in found} == {tuple(ids) for ids, _, _ in every}
    (greedy,) = generate(model, [source], Greedy(), limit=LengthLimit(0, limit, limit))[0]
    best = score(found[0].log_prob, found[0].ids, penalty)
    assert best >= score(greedy.log_prob, greedy.ids, penalty) - 1e-5


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_n_best_is_sorted_distinct_and_a_head_of_the_whole_beam(
    model: EncoderDecoder, penalty: float
) -> None:
    whole = generate(model, SOURCES, Beam(4, 4, penalty), limit=LIMIT)
    for row in whole:
        scores = [score(h.log_prob, h.ids, penalty) for h in row]
        assert len(row) == 4 and scores == sorted(scores, reverse=True)
        assert len({tuple(h.ids) for h in row}) == 4
    for n in (1, 2):
        head = generate(model, SOURCES, Beam(4, n, penalty), limit=LIMIT)
        assert head == [row[:n] for row in whole]


def test_fewer_hypotheses_than_asked_for_where_no_more_exist() -> None:
    model = tiny_model(36, vocab_size=6)
    (found,) = generate(model, [[4, 1]], Beam(6, 6), limit=LengthLimit(0, 1, 1))
    assert {tuple(h.ids) for h in found} == {(1,), (2,), (4,), (5,)}


def test_a_larger_penalty_never_shortens_the_best(model: EncoderDecoder) -> None:
    lengths = []
    for penalty in (0.0, 1.0, 3.0):
        found = generate(model, SOURCES, Beam(5, 1, penalty, exact=True), limit=LIMIT)
        lengths.append(sum(len(h.ids) for (h,) in found))
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_by_default_the_search_ends_where_no_live_beam_leads_at_its_present_length(
    model: EncoderDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works less than the exact search and finds nothing that would beat what that finds."""
    counts = {False: 0, True: 0}
    best = {}
    step = model.step
    for exact in counts:

        def counted(tokens, state, exact=exact):  # type: ignore[no-untyped-def]
            counts[exact] += len(tokens)
            return step(tokens, state)

        monkeypatch.setattr(model, "step", counted)
        mode = Beam(4, 4, exact=exact)
        found = generate(model, SOURCES, mode, limit=LengthLimit(2.0, 4, 20))
        best[exact] = [score(h[0].log_prob, h[0].ids, 1.0) for h in found]
    assert counts[False] < counts[True]
    assert all(a <= b + 1e-6 for a, b in zip(best[False], best[True], strict=True))
