"""Reading splits, tokenised rows in memory and on disk, sampled segmentations."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from seq2seq import data
from seq2seq.corpus import Example, read_split
from seq2seq.data import Fit, Segmentation, TokenizedSplit, tokenise
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
    return tokenise(
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

    split = tokenise(
        [Example("a", ("b",))],
        Tied(tiny_vocabulary().model_bytes),
        max_source_length=3,
        max_target_length=3,
        segmentation=Segmentation(2, 1.0),
    )
    assert [split.source(0, u).tolist() for u in (0.0, 0.9)] == [[9, 8, EOS_ID]] * 2


# ----------------------------------------------------------------------------------------- on disk


def same(one: TokenizedSplit, other: TokenizedSplit) -> bool:
    """Whether two splits give the same answers to everything."""
    if (len(one), one.fit, one.has_targets) != (len(other), other.fit, other.has_targets):
        return False
    draws = [(r, u) for r in range(len(one)) for u in (0.0, 0.4, 0.9)]
    return (
        all(one.source(r, u).tolist() == other.source(r, u).tolist() for r, u in draws)
        and all(one.target(r).tolist() == other.target(r).tolist() for r in range(len(one)))
        and one.source_lengths.tolist() == other.source_lengths.tolist()
        and one.target_lengths.tolist() == other.target_lengths.tolist()
        and one.unknown_rate() == other.unknown_rate()
        and one.lengths_digest() == other.lengths_digest()
    )


@pytest.mark.parametrize("part", [1, 5, 12, 100])
@pytest.mark.parametrize("segmentation", [None, Segmentation(3, 0.5)])
def test_a_split_on_disk_is_the_one_in_memory_whatever_the_size_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, segmentation: Segmentation | None
) -> None:
    rows = [*examples(), Example("ab 漢")]
    limit = int(tokenised(rows).source_lengths.max()) - 1
    whole = tokenised(rows, source=limit, segmentation=segmentation)
    monkeypatch.setattr(data, "PART", part)
    written = tokenised(rows, source=limit, segmentation=segmentation, directory=tmp_path)
    assert whole.fit.left_out > 0 and not whole.has_targets and whole.unknown_rate() > 0
    assert same(written, whole)
    assert same(TokenizedSplit.read(tmp_path), whole)


def test_examples_are_taken_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than two parts of them live at once, the one that comes and the one that goes."""
    monkeypatch.setattr(data, "PART", 4)
    alive: weakref.WeakSet[Example] = weakref.WeakSet()
    most = []

    def coming() -> Iterator[Example]:
        for number in range(40):
            example = Example(f"ab {number}", ("cd",))
            alive.add(example)
            most.append(len(alive))
            yield example

    split = tokenise(
        coming(),
        tiny_vocabulary(),
        max_source_length=99,
        max_target_length=99,
        directory=tmp_path,
    )
    assert len(split) == 40 and max(most) <= 2 * 4 + 1


def test_ids_on_disk_are_as_narrow_as_the_vocabulary_allows(tmp_path: Path) -> None:
    split = tokenised(examples(), directory=tmp_path)
    assert split.source(0).dtype == np.uint16
    assert (tmp_path / "source.ids").stat().st_size == 2 * int(split.source_lengths.sum())


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "split.json").unlink(),
        lambda path: (path / "split.json").write_text("{"),
        lambda path: (path / "split.json").write_text('{"other": 1}'),
        lambda path: (path / "target.ids").unlink(),
        lambda path: (path / "target.ids").write_bytes(b""),
        lambda path: os.truncate(path / "source.ids", 10),
        lambda path: os.truncate(path / "source.ids", 11),
        lambda path: os.truncate(path / "source.first", 16),
        lambda path: (path / "target.lengths").write_bytes(b"\1\0\0\0" * 12),
    ],
)
def test_a_damaged_split_is_named(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    tokenised(examples(), directory=tmp_path)
    TokenizedSplit.read(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=r"is damaged \(.*; remove it"):
        TokenizedSplit.read(tmp_path)


# --------------------------------------------------------------------------------- several corpora


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_know_which_corpus_they_are_of(tmp_path: Path, on_disk: bool) -> None:
    """The second corpus has nothing within the limits; of the third one sentence is left out."""
    long = " ".join(["ab"] * 60)
    texts = [("ab cd", 0), ("cd", 0), (long, 1), ("ef", 2), (long, 2), ("gh ab", 2)]
    split = tokenise(
        [Example(text, (text,), corpus) for text, corpus in texts],
        tiny_vocabulary(),
        max_source_length=20,
        max_target_length=20,
        directory=tmp_path if on_disk else None,
    )
    split = TokenizedSplit.read(tmp_path) if on_disk else split
    assert len(split) == 4
    assert split.corpus_of(np.array([3, 0, 2, 1])).tolist() == [2, 0, 2, 0]


def test_rows_of_one_corpus_are_all_of_the_first() -> None:
    split = tokenise(
        [Example("ab", ("cd",))] * 3, tiny_vocabulary(), max_source_length=9, max_target_length=9
    )
    assert split.corpus_of(np.arange(3)).tolist() == [0, 0, 0]


def test_a_corpus_whose_sentences_do_not_lie_together_is_a_defect() -> None:
    examples = [Example("ab", ("cd",), corpus) for corpus in (0, 1, 0)]
    with pytest.raises(ValueError, match="do not lie together"):
        tokenise(examples, tiny_vocabulary(), max_source_length=9, max_target_length=9)
