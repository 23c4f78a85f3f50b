"""Reading splits, tokenised rows, sampled segmentations and the batch plan."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.corpus import Example, read_split
from seq2seq.data import BatchPlan, Fit, Segmentation, TokenizedSplit
from seq2seq.errors import UserError
from seq2seq.vocabulary import EOS_ID, UNK_ID, SentencePieceVocabulary
from tests.builders import tiny_text, tiny_vocabulary

GOOD = json.dumps({"source": "ab", "references": ["cd"]}).encode()


def corpus(directory: Path, *lines: bytes) -> Path:
    (directory / "train.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return directory


# --------------------------------------------------------------------------------- reading a split


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b"[]",
        b'"text"',
        b"{}",
        b'{"source": "ab"}',
        b'{"references": ["cd"]}',
        b'{"source": "ab", "references": null}',
        b'{"source": "ab", "references": "cd"}',
        b'{"source": "ab", "references": {"0": "cd"}}',
        b'{"source": "ab", "references": [null]}',
        b'{"source": null, "references": ["cd"]}',
        b'{"source": 7, "references": ["cd"]}',
        b'{"source": "\xff", "references": ["cd"]}',
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl:2: not an object with 'source'") as caught:
        read_split(corpus(tmp_path, GOOD, line, GOOD), "train")
    assert "\n" not in str(caught.value) and "prepare the corpus again" in str(caught.value)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl is empty"):
        read_split(corpus(tmp_path), "train")


def test_a_missing_split_or_directory_is_named(tmp_path: Path) -> None:
    corpus(tmp_path, GOOD)
    with pytest.raises(
        UserError,
        match=r"validation\.jsonl does not exist \(splits there: train\); .*imitkd data prepare",
    ):
        read_split(tmp_path, "validation")
    with pytest.raises(UserError, match=r"nowhere.*does not exist"):
        read_split(tmp_path / "nowhere", "train")


def test_reads_in_order_with_any_number_of_references(tmp_path: Path) -> None:
    lines = [
        json.dumps({"source": "größer", "references": ["a", "b"]}, ensure_ascii=False).encode(),
        json.dumps({"source": "zwei", "references": []}).encode(),
        json.dumps({"source": "", "references": [""], "key": "ignored"}).encode(),
    ]
    assert read_split(str(corpus(tmp_path, *lines)), "train") == [
        Example("größer", ("a", "b")),
        Example("zwei", ()),
        Example("", ("",)),
    ]


# --------------------------------------------------------------------------------- tokenised split


def examples(count: int = 12) -> list[Example]:
    lines = tiny_text(2 * count, seed=5)
    return [Example(s, (t,)) for s, t in zip(lines[:count], lines[count:], strict=True)]


def tokenised(
    rows: list[Example], source: int = 99, target: int = 99, **more: object
) -> TokenizedSplit:
    return TokenizedSplit(
        rows,
        tiny_vocabulary(),
        max_source_length=source,
        max_target_length=target,
        **more,  # type: ignore[arg-type]
    )


def test_only_over_long_sentences_is_a_fault_with_the_limits() -> None:
    with pytest.raises(UserError, match=r"all 12 sentences .* 1 source and 99 target ids; raise"):
        tokenised(examples(), source=1)


def test_rows_hold_ids_with_the_end_symbol() -> None:
    vocabulary, rows = tiny_vocabulary(), examples()
    split = tokenised(rows)
    assert len(split) == 12 and split.fit == Fit(0, 0) and split.has_targets
    for number, example in enumerate(rows):
        assert split.source(number).tolist() == vocabulary.encode_source(example.source)
        assert split.target(number).tolist() == vocabulary.encode_target(example.references[0])
        assert split.source_lengths[number] == len(split.source(number))
        assert split.target_lengths[number] == len(split.target(number))


def test_sentences_over_a_limit_are_left_out_and_counted() -> None:
    rows = examples()
    whole = tokenised(rows)
    for side, lengths in (("source", whole.source_lengths), ("target", whole.target_lengths)):
        for limit in range(lengths.min(), lengths.max() + 1):
            split = tokenised(rows, **{side: limit})
            kept = (lengths <= limit).nonzero()[0]
            assert len(split) == len(kept) == 12 - split.fit.left_out
            for row, origin in enumerate(kept):
                assert split.source(row).tolist() == whole.source(origin).tolist()
                assert split.target(row).tolist() == whole.target(origin).tolist()


def test_sources_may_be_cut_and_are_counted() -> None:
    rows = examples()
    whole, limit = tokenised(rows), 6
    split = tokenised(rows, source=limit, cut_sources=True)
    long = whole.source_lengths > limit
    assert 0 < long.sum() < len(rows)
    assert split.fit == Fit(left_out=0, cut=long.sum()) and len(split) == len(rows)
    for row in range(len(rows)):
        ids = whole.source(row).tolist()
        assert split.source(row).tolist() == ([*ids[: limit - 1], EOS_ID] if long[row] else ids)
        assert split.target(row).tolist() == whole.target(row).tolist()
    target = int(whole.target_lengths.max()) - 1
    both = tokenised(rows, source=limit, target=target, cut_sources=True)
    kept = whole.target_lengths <= target
    assert both.fit == Fit(left_out=(~kept).sum(), cut=(long & kept).sum())


def test_the_first_reference_is_the_target_and_none_is_marked() -> None:
    vocabulary = tiny_vocabulary()
    split = tokenised([Example("ab cd", ("ef", "gh")), Example("ab", ())])
    assert split.target(0).tolist() == vocabulary.encode_target("ef")
    assert split.target(1).tolist() == [EOS_ID]
    assert not split.has_targets


def test_unknown_rate_counts_ids_of_both_sides() -> None:
    split = tokenised([Example("ab 漢", ("cd",))])
    ids = [*split.source(0), *split.target(0)]
    assert split.unknown_rate() == ids.count(UNK_ID) / len(ids) > 0
    assert tokenised(examples()).unknown_rate() == 0


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_segmentations_are_drawn_in_proportion_to_their_power(alpha: float) -> None:
    vocabulary, count = tiny_vocabulary(), 4
    rows = [e for e in examples(40) if len(vocabulary.segmentations(e.source, count)) == count][:3]
    assert len(rows) == 3
    split = tokenised(rows, segmentation=Segmentation(count, alpha))
    draws = (np.arange(1000) + 0.5) / 1000
    for number, example in enumerate(rows):
        options = vocabulary.segmentations(example.source, count)
        weights = np.exp(alpha * np.array([score for _, score in options]))
        found = [tuple(split.source(number, u).tolist()) for u in draws]
        for (ids, _), share in zip(options, weights / weights.sum(), strict=True):
            assert found.count((*ids, EOS_ID)) / 1000 == pytest.approx(share, abs=3e-3)
        assert split.source(number).tolist() == [*options[0][0], EOS_ID]
        assert split.target(number).tolist() == vocabulary.encode_target(example.references[0])
        assert split.source_lengths[number] == len(options[0][0]) + 1


def test_no_drawn_segmentation_is_longer_than_the_limit() -> None:
    rows = examples(12)
    limit = int(tokenised(rows).source_lengths.max())
    split = tokenised(rows, source=limit, segmentation=Segmentation(16, 0.1))
    drawn = [len(split.source(row, u)) for row in range(12) for u in np.linspace(0, 1, 40, False)]
    assert max(drawn) == limit and len(set(drawn)) > 3


def test_a_best_segmentation_over_the_limit_gives_way_to_the_encoded_one() -> None:
    """The n-best list breaks ties otherwise than encoding does, now and then with a longer head."""

    class Tied(SentencePieceVocabulary):
        def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
            return [[9, 8] for _ in texts]

        def segmentations(self, text: str, count: int) -> list[tuple[list[int], float]]:
            return [([9, 4, 4], -1.0), ([9, 4, 4, 4], -2.0)]

    split = TokenizedSplit(
        [Example("a", ("b",))],
        Tied(tiny_vocabulary().model_bytes),
        max_source_length=3,
        max_target_length=3,
        segmentation=Segmentation(2, 1.0),
    )
    assert [split.source(0, u).tolist() for u in (0.0, 0.9)] == [[9, 8, EOS_ID]] * 2


# -------------------------------------------------------------------------------------- batch plan

plans = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(1, 120)),
    st.integers(0, 5),
).filter(lambda p: p[1] is not None or p[2] is not None)


def epoch_batches(plan: BatchPlan, epoch: int) -> list[np.ndarray]:
    first = 0
    while plan.epoch_of(first) < epoch:
        first += 1
    found = []
    while plan.epoch_of(first) == epoch:
        found.append(plan.rows(first))
        first += 1
    return found


def test_a_plan_needs_a_bound() -> None:
    with pytest.raises(ValueError, match="sentences or tokens"):
        BatchPlan(np.array([3]), seed=0)


@settings(max_examples=40, deadline=None)
@given(plans)
def test_every_epoch_visits_every_row_once_within_the_bounds(
    setting: tuple[list[int], int | None, int | None, int],
) -> None:
    lengths, sentences, tokens, seed = setting
    plan = BatchPlan(np.array(lengths), seed=seed, sentences=sentences, tokens=tokens)
    for epoch in (0, 1, 2):
        batches = epoch_batches(plan, epoch)
        visited = sorted(int(row) for rows in batches for row in rows)
        assert visited == list(range(len(lengths)))
        for rows in batches:
            longest = max(lengths[r] for r in rows)
            assert sentences is None or len(rows) <= sentences
            assert tokens is None or len(rows) * longest <= tokens or len(rows) == 1


@settings(max_examples=20, deadline=None)
@given(plans, st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_random_access_equals_sequential_access(
    setting: tuple[list[int], int | None, int | None, int], asked: list[int]
) -> None:
    lengths, sentences, tokens, seed = setting

    def make() -> BatchPlan:
        return BatchPlan(np.array(lengths), seed=seed, sentences=sentences, tokens=tokens)

    sequential = make()
    rows = [sequential.rows(i).tolist() for i in range(41)]
    jumping = make()
    assert [jumping.rows(i).tolist() for i in asked] == [rows[i] for i in asked]
    assert [jumping.epoch_of(i) for i in asked] == [sequential.epoch_of(i) for i in asked]


LENGTHS = np.random.default_rng(0).integers(1, 30, 200)


def test_rows_of_a_batch_are_of_similar_length_shortest_first() -> None:
    batches = epoch_batches(BatchPlan(LENGTHS, seed=1, sentences=16), 0)
    spans = sorted((int(LENGTHS[b].min()), int(LENGTHS[b].max())) for b in batches)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    assert all((np.diff(LENGTHS[rows]) >= 0).all() for rows in batches)
    assert len(batches) == -(-200 // 16)


def test_padding_is_bounded() -> None:
    """Lengths of real text: most short, a few very long."""
    lengths = np.random.default_rng(1).lognormal(2.5, 0.6, 5000).astype(int).clip(1, 120)
    plan = BatchPlan(lengths, seed=3, tokens=1024)
    batches = [lengths[rows] for rows in epoch_batches(plan, 0)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert padded / lengths.sum() < 1.04
    # A batch spans more than a few lengths only where long ones are rare.
    assert np.median([batch.max() - batch.min() for batch in batches]) <= 1


def test_batches_are_as_full_as_the_budget_allows() -> None:
    batches = epoch_batches(BatchPlan(LENGTHS, seed=1, tokens=120), 0)
    batches.sort(key=lambda rows: (LENGTHS[rows[-1]], LENGTHS[rows[0]], -len(rows)))
    for rows, following in itertools.pairwise(batches):
        assert (len(rows) + 1) * LENGTHS[following[0]] > 120


def test_batches_come_in_random_order_and_company_changes_with_epoch_and_seed() -> None:
    plan = BatchPlan(LENGTHS, seed=1, sentences=16)
    first, second = epoch_batches(plan, 0), epoch_batches(plan, 1)
    other = epoch_batches(BatchPlan(LENGTHS, seed=2, sentences=16), 0)
    means = [float(LENGTHS[rows].mean()) for rows in first]
    assert means != sorted(means) and means != sorted(means, reverse=True)
    companies = [
        {frozenset(rows.tolist()) for rows in batches} for batches in (first, second, other)
    ]
    assert companies[0] != companies[1] and companies[0] != companies[2]
    orders = [
        [float(LENGTHS[rows].mean()) for rows in batches] for batches in (first, second, other)
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]
