"""Tokenised splits, and the plan that says which rows make up which batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from seq2seq.corpus import Example
from seq2seq.errors import UserError
from seq2seq.noise import uniform_array
from seq2seq.vocabulary import Vocabulary


@dataclass(frozen=True)
class _Ragged:
    """Many id sequences end to end, several alternatives a row.

    Attributes:
        ids: all ids; uint16 where the vocabulary allows, int32 otherwise.
        offsets: int64 ``[A + 1]``: where alternative a begins and ends.
        first: int64 ``[rows + 1]``: the alternatives of each row; its first is the best one.
        cumulative: float32 ``[A]``: within a row, cumulative probabilities of its alternatives.
    """

    ids: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    cumulative: np.ndarray

    def get(self, row: int, u: float = 0.0) -> np.ndarray:
        """Ids of a row: the alternative at quantile ``u``; best alternatives come first."""
        begin, end = self.first[row], self.first[row + 1]
        chosen = begin
        if end - begin > 1:
            chosen = begin + np.searchsorted(self.cumulative[begin:end], u, side="right")
            chosen = min(chosen, end - 1)
        return self.ids[self.offsets[chosen] : self.offsets[chosen + 1]]

    def best_lengths(self) -> np.ndarray:
        best = self.first[:-1]
        return self.offsets[best + 1] - self.offsets[best]


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


class TokenizedSplit:
    """Sources and first references of a split as ids, addressed by row.

    Sentences longer than the model's limits are left out, or under ``cut_sources`` lose the end of
    their source; ``fit`` counts both.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        *,
        max_source_length: int,
        max_target_length: int,
        segmentation: Segmentation | None = None,
        cut_sources: bool = False,
    ) -> None:
        segmentation = segmentation or Segmentation()
        references = [e.references[0] if e.references else "" for e in examples]
        read = vocabulary.encode_many([e.source for e in examples])
        limit = max_source_length if cut_sources else None
        sources = [vocabulary.as_source(ids, limit) for ids in read]
        targets = map(vocabulary.as_target, vocabulary.encode_many_targets(references))
        kept = [
            row
            for row in zip(examples, sources, targets, read, strict=True)
            if len(row[1]) <= max_source_length and len(row[2]) <= max_target_length
        ]
        cut = 0
        if limit is not None:
            cut = sum(len(vocabulary.as_source(ids)) > len(source) for _, source, _, ids in kept)
        self.fit = Fit(len(examples) - len(kept), cut)
        if not kept:
            raise UserError(
                f"all {len(examples)} sentences are longer than the model's limits of "
                f"{max_source_length} source and {max_target_length} target ids; raise the limits"
            )
        self.has_targets = all(e.references for e, *_ in kept)
        self._unk_id = vocabulary.unk_id
        self._sources = _ragged(
            [
                _segmented(vocabulary, example.source, source, segmentation, max_source_length)
                for example, source, *_ in kept
            ],
            segmentation.alpha,
            vocabulary.size,
        )
        self._targets = _ragged([[(target, 0.0)] for _, _, target, _ in kept], 1.0, vocabulary.size)
        self.source_lengths = self._sources.best_lengths()
        self.target_lengths = self._targets.best_lengths()

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, row: int, u: float = 0.0) -> np.ndarray:
        """Encoder input of a row, end symbol included; ``u`` in [0, 1) draws its segmentation."""
        return self._sources.get(row, u)

    def target(self, row: int) -> np.ndarray:
        """Reference of a row, end symbol included."""
        return self._targets.get(row)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        parts = (self._sources, self._targets)
        return sum(array.nbytes for part in parts for array in vars(part).values())

    def unknown_rate(self) -> float:
        """Share of unknown ids among all ids of sources and targets."""
        ids = np.concatenate([self._sources.ids, self._targets.ids])
        return float((ids == self._unk_id).mean())


def _segmented(
    vocabulary: Vocabulary, text: str, best: list[int], segmentation: Segmentation, limit: int
) -> list[tuple[list[int], float]]:
    """The sources that a text may be read as, with their log-probabilities, best first."""
    if segmentation.candidates == 1:
        return [(best, 0.0)]
    found = vocabulary.segmentations(text, segmentation.candidates)
    options = [(vocabulary.as_source(ids), score) for ids, score in found]
    # Where scores tie, even the best of the list may be longer than what encoding gives.
    return [option for option in options if len(option[0]) <= limit] or [(best, 0.0)]


def _ragged(
    rows: Sequence[Sequence[tuple[list[int], float]]], alpha: float, vocabulary_size: int
) -> _Ragged:
    """Rows of alternatives, each drawn in proportion to its probability to the power ``alpha``."""
    ids: list[int] = []
    offsets, first = [0], [0]
    cumulative: list[float] = []
    for options in rows:
        weights = np.exp(alpha * (np.array([score for _, score in options]) - options[0][1]))
        for option, _ in options:
            ids.extend(option)
            offsets.append(len(ids))
        cumulative.extend(np.cumsum(weights / weights.sum()))
        first.append(len(offsets) - 1)
    dtype = np.uint16 if vocabulary_size <= 1 << 16 else np.int32
    return _Ragged(
        np.array(ids, dtype=dtype),
        np.array(offsets, dtype=np.int64),
        np.array(first, dtype=np.int64),
        np.array(cumulative, dtype=np.float32),
    )


class BatchPlan:
    """Which rows make up batch i: a function of (seed, i) alone.

    Each epoch visits every row once. Rows of similar length share a batch; batches come in random
    order.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        seed: int,
        sentences: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """Plan batches of at most ``sentences`` rows and at most ``tokens`` padded tokens.

        Args:
            lengths: int ``[rows]``, what a row costs before padding.
        """
        if not sentences and not tokens:
            raise ValueError("batches need a bound: sentences or tokens")
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self._sentences = sentences or len(self._lengths)
        self._tokens = tokens or int(self._lengths.max()) * len(self._lengths)
        self._starts = [0]
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that are the same for plans with the same batches."""
        bounds = np.array([self._seed, self._sentences, self._tokens], "<i8")
        lengths = np.ascontiguousarray(self._lengths, "<i8")
        return hashlib.sha256(bounds.tobytes() + lengths.tobytes()).hexdigest()[:16]

    def rows(self, batch: int) -> np.ndarray:
        """int64 rows of batch i, shortest first."""
        epoch = self.epoch_of(batch)
        return self._epoch(epoch)[batch - self._starts[epoch]]

    def epoch_of(self, batch: int) -> int:
        """The epoch batch i belongs to, from 0."""
        while self._starts[-1] <= batch:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        return int(np.searchsorted(self._starts, batch, side="right")) - 1

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        rows = np.arange(len(self._lengths))
        jitter = uniform_array(self._seed, epoch, rows)
        # Less than one token of noise: rows of one length meet different company every epoch.
        order = np.argsort(self._lengths + jitter, kind="stable")
        batches, begin = [], 0
        for place in range(1, len(order) + 1):
            full = place - begin >= self._sentences
            if place < len(order) and not full:
                cost = int(self._lengths[order[place]]) * (place - begin + 1)
                full = cost > self._tokens
            if full or place == len(order):
                batches.append(order[begin:place])
                begin = place
        shuffle = np.argsort(uniform_array(self._seed, epoch, -1 - np.arange(len(batches))))
        return [batches[i] for i in shuffle]
