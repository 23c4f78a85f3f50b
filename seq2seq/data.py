"""Tokenised splits, in memory or on disk.

A split is tokenised once, a part at a time, into arrays that lie in memory or in mapped files. What
a process holds of one on disk is the lengths of its rows: ids come in as rows are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seq2seq.columns import ColumnWriter, map_columns
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from seq2seq.parts import parts_of
from seq2seq.vocabulary import Vocabulary

# Sentences tokenised at once.
PART = 4096
_FACTS = "split.json"


@dataclass(frozen=True)
class _Ragged:
    """Many id sequences end to end, several alternatives a row.

    Attributes:
        ids: all ids; uint16 where the vocabulary allows, int32 otherwise.
        offsets: int64 ``[A + 1]``: where alternative a begins and ends.
        first: int64 ``[rows + 1]``: the alternatives of each row; its first is the best one.
        cumulative: float32 ``[A]``: within a row, cumulative probabilities of its alternatives.
        lengths: int32 ``[rows]``: of the best alternatives.
    """

    ids: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    cumulative: np.ndarray
    lengths: np.ndarray

    def get(self, row: int, u: float = 0.0) -> np.ndarray:
        """Ids of a row: the alternative at quantile ``u``; best alternatives come first."""
        begin, end = self.first[row], self.first[row + 1]
        chosen = begin
        if end - begin > 1:
            chosen = begin + np.searchsorted(self.cumulative[begin:end], u, side="right")
            chosen = min(chosen, end - 1)
        return self.ids[self.offsets[chosen] : self.offsets[chosen + 1]]

    def whole(self) -> bool:
        """Whether the arrays are as long as they say of each other."""
        rows, alternatives = len(self.lengths), len(self.cumulative)
        numbers = (len(self.first), self.first[-1], len(self.offsets), self.offsets[-1])
        return numbers == (rows + 1, alternatives, alternatives + 1, len(self.ids))


def _dtypes(vocabulary_size: int) -> dict[str, str]:
    """Of the arrays of both sides, by name."""
    ids = "<u2" if vocabulary_size <= 1 << 16 else "<i4"
    kinds = {"ids": ids, "offsets": "<i8", "first": "<i8", "cumulative": "<f4", "lengths": "<i4"}
    return {f"{side}.{n}": kind for side in ("source", "target") for n, kind in kinds.items()}


def _side(arrays: Mapping[str, np.ndarray], side: str) -> _Ragged:
    names = _Ragged.__dataclass_fields__
    return _Ragged(**{name: arrays[f"{side}.{name}"] for name in names})


def _cumulative(scores: Sequence[float], alpha: float) -> Sequence[float]:
    """Cumulative probabilities in proportion to those of ``scores`` to the power alpha."""
    if len(scores) == 1:
        return (1.0,)
    weights = np.exp(alpha * (np.array(scores) - scores[0]))
    found: list[float] = np.cumsum(weights / weights.sum()).tolist()
    return found


class _Side:
    """One side of a split being written.

    Args:
        alpha: an alternative is drawn in proportion to its probability to the power alpha.
    """

    def __init__(self, columns: ColumnWriter, side: str, alpha: float = 1.0) -> None:
        self._columns, self._side, self._alpha = columns, side, alpha
        self._ids = self._alternatives = 0
        self._append(offsets=[0], first=[0])

    def add(self, rows: Sequence[Sequence[tuple[list[int], float]]]) -> np.ndarray:
        """Rows of alternatives, ids with their log-probabilities, best first; returns all ids."""
        ids: list[int] = []
        offsets, first = [], []
        cumulative: list[float] = []
        for options in rows:
            for option, _ in options:
                ids.extend(option)
                offsets.append(self._ids + len(ids))
            cumulative.extend(_cumulative([score for _, score in options], self._alpha))
            first.append(self._alternatives + len(offsets))
        self._ids += len(ids)
        self._alternatives += len(offsets)
        lengths = [len(options[0][0]) for options in rows]
        self._append(ids=ids, offsets=offsets, first=first, cumulative=cumulative, lengths=lengths)
        return np.array(ids, np.int64)

    def _append(self, **values: Sequence[int] | Sequence[float]) -> None:
        for name, found in values.items():
            self._columns.append(f"{self._side}.{name}", found)


@dataclass(frozen=True)
class Segmentation:
    """Subword regularisation (Kudo 2018) over n-best lists, so that a draw is a table look-up.

    Sources only: a teacher trained on varied targets would spread its distributions over spellings
    of one word, and the student would spend its capacity on them.

    Attributes:
        candidates: size of each source's n-best list; 1 turns it off.
        alpha: a segmentation is drawn in proportion to its probability to the power alpha.
    """

    candidates: int = 1
    alpha: float = 0.2


class Fit(NamedTuple):
    """How many sentences were over the model's limits.

    Attributes:
        left_out: are not used at all.
        cut: lost the end of their source.
    """

    left_out: int = 0
    cut: int = 0


@dataclass
class SplitFacts:
    """What is known of a split beside its ids.

    Attributes:
        left_out, cut: see :class:`Fit`.
        has_targets: whether every row has a reference.
        unknown, ids: unknown ids, and all ids, of sources and targets.
        vocabulary_size: V.
        lengths: digest of the rows' lengths, which the plan of batches is made of.
        parts: rows of each corpus, which lie one after the other; empty where there is one.
    """

    left_out: int = 0
    cut: int = 0
    has_targets: bool = True
    unknown: int = 0
    ids: int = 0
    vocabulary_size: int = 0
    lengths: str = ""
    parts: list[int] = field(default_factory=list)


class TokenizedSplit:
    """Sources and first references of a split as ids, addressed by row; see :func:`tokenise`.

    Attributes:
        source_lengths, target_lengths: int32 ``[rows]``.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], facts: SplitFacts) -> None:
        self._sources, self._targets = _side(arrays, "source"), _side(arrays, "target")
        self._facts = facts
        self.fit = Fit(facts.left_out, facts.cut)
        self.has_targets = facts.has_targets
        self.source_lengths = self._sources.lengths
        self.target_lengths = self._targets.lengths

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, row: int, u: float = 0.0) -> np.ndarray:
        """Encoder input of a row, end symbol included; ``u`` in [0, 1) draws its segmentation."""
        return self._sources.get(row, u)

    def target(self, row: int) -> np.ndarray:
        """Reference of a row, end symbol included."""
        return self._targets.get(row)

    def corpus_of(self, rows: np.ndarray) -> np.ndarray:
        """int64, like ``rows``: the place of each row's corpus among those read together."""
        return np.searchsorted(np.cumsum(self._facts.parts), rows, side="right")

    def unknown_rate(self) -> float:
        """Share of unknown ids among all ids of sources and targets."""
        return self._facts.unknown / self._facts.ids

    def lengths_digest(self) -> str:
        """Hexadecimal digits of the lengths of all rows."""
        digest = hashlib.sha256()
        for lengths in (self.source_lengths, self.target_lengths):
            digest.update(lengths.data)
        return digest.hexdigest()[:16]

    @classmethod
    def read(cls, directory: Path) -> TokenizedSplit:
        """A split that :func:`tokenise` wrote, mapped.

        Raises:
            UserError: a file is missing or damaged.
        """
        try:
            facts = SplitFacts(**json.loads((directory / _FACTS).read_text()))
            split = cls(map_columns(_dtypes(facts.vocabulary_size), directory), facts)
            whole = split._sources.whole() and split._targets.whole()
            if not whole or split.lengths_digest() != facts.lengths:
                raise ValueError("its arrays do not belong together")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{directory} is damaged ({error}); remove it") from error
        return split


def tokenise(
    examples: Iterable[Example],
    vocabulary: Vocabulary,
    *,
    max_source_length: int,
    max_target_length: int,
    segmentation: Segmentation | None = None,
    cut_sources: bool = False,
    directory: Path | None = None,
) -> TokenizedSplit:
    """Tokenise a split; memory does not grow with it where it is written to a directory.

    Examples of several corpora come one corpus after the other, in the order of their places.
    Sentences longer than the model's limits are left out, or under ``cut_sources`` lose the end of
    their source; ``fit`` counts both.

    Args:
        directory: where the arrays are written, for :meth:`TokenizedSplit.read` too; None keeps
            them in memory.

    Raises:
        UserError: no sentence is within the limits.
        OSError: the directory cannot be written.
    """
    segmentation = segmentation or Segmentation()
    limit = max_source_length if cut_sources else None
    facts = SplitFacts(vocabulary_size=vocabulary.size)
    rows = 0
    with ColumnWriter(_dtypes(vocabulary.size), directory) as columns:
        sources = _Side(columns, "source", segmentation.alpha)
        targets = _Side(columns, "target")
        for part in parts_of(examples, PART):
            kept = [
                _Row(example, source, target, len(vocabulary.as_source(ids)) > len(source))
                for example, ids, source, target in _encoded(part, vocabulary, limit)
                if len(source) <= max_source_length and len(target) <= max_target_length
            ]
            rows += len(kept)
            _count(facts.parts, kept)
            facts.left_out += len(part) - len(kept)
            facts.cut += sum(row.cut for row in kept)
            facts.has_targets &= all(row.example.references for row in kept)
            options = [_segmented(vocabulary, row, segmentation, max_source_length) for row in kept]
            written = sources.add(options), targets.add([[(row.target, 0.0)] for row in kept])
            facts.ids += sum(map(len, written))
            facts.unknown += sum(int((ids == vocabulary.unk_id).sum()) for ids in written)
        if not rows:
            raise UserError(
                f"all {facts.left_out} sentences are longer than the model's limits of "
                f"{max_source_length} source and {max_target_length} target ids; raise the limits"
            )
        if len(facts.parts) == 1:
            facts.parts = []
        split = TokenizedSplit(columns.arrays(), facts)
    facts.lengths = split.lengths_digest()
    if directory is not None:
        (directory / _FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n")
    return split


class _Row(NamedTuple):
    """A sentence within the limits; ``cut`` where its source lost its end."""

    example: Example
    source: list[int]
    target: list[int]
    cut: bool


def _count(parts: list[int], rows: Sequence[_Row]) -> None:
    for row in rows:
        place = row.example.corpus
        parts.extend([0] * (place + 1 - len(parts)))
        if any(parts[place + 1 :]):
            raise ValueError("the examples of a corpus do not lie together")
        parts[place] += 1


def _encoded(
    part: Sequence[Example], vocabulary: Vocabulary, limit: int | None
) -> Iterator[tuple[Example, list[int], list[int], list[int]]]:
    """Each example with the ids of its source's text, its source and its target."""
    read = vocabulary.encode_many([e.source for e in part])
    references = [e.references[0] if e.references else "" for e in part]
    written = vocabulary.encode_many_targets(references)
    for example, ids, target in zip(part, read, written, strict=True):
        yield example, ids, vocabulary.as_source(ids, limit), vocabulary.as_target(target)


def _segmented(
    vocabulary: Vocabulary, row: _Row, segmentation: Segmentation, limit: int
) -> list[tuple[list[int], float]]:
    """The sources that a text may be read as, with their log-probabilities, best first."""
    if segmentation.candidates == 1:
        return [(row.source, 0.0)]
    found = vocabulary.segmentations(row.example.source, segmentation.candidates)
    options = [(vocabulary.as_source(ids), score) for ids, score in found]
    # Where scores tie, even the best of the list may be longer than what encoding gives.
    return [option for option in options if len(option[0]) <= limit] or [(row.source, 0.0)]
