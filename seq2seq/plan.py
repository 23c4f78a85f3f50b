"""The plan that says which rows make up which batch."""

from __future__ import annotations

import hashlib
from array import array
from functools import lru_cache

import numpy as np

from seq2seq.noise import uniform_array

_BLOCK = 1 << 20


class BatchPlan:
    """Which rows make up batch i: a function of (seed, i) alone.

    Each epoch visits every row once. Rows of similar length share a batch; batches come in random
    order. Holds about 16 bytes a row, all told, whatever the rows hold.
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
        self._lengths = lengths = np.asarray(lengths)
        self._seed = seed
        self._sentences = sentences or len(lengths)
        self._tokens = tokens or int(lengths.max()) * len(lengths)
        number = np.uint32 if len(lengths) < 1 << 32 else np.int64
        self._by_length = np.argsort(lengths, kind="stable").astype(number)
        # Where batches begin among the rows in order of length: the same in every epoch.
        self._bounds = self._cut(lengths[self._by_length])
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that are the same for plans with the same batches."""
        bounds = np.array([self._seed, self._sentences, self._tokens], "<i8")
        digest = hashlib.sha256(bounds.tobytes())
        for begin in range(0, len(self._lengths), _BLOCK):
            digest.update(self._lengths[begin : begin + _BLOCK].astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def rows(self, batch: int) -> np.ndarray:
        """int64 rows of batch i, shortest first."""
        epoch, place = divmod(batch, len(self._bounds) - 1)
        order, shuffle = self._epoch(epoch)
        begin, end = self._bounds[shuffle[place] : shuffle[place] + 2]
        return order[begin:end].astype(np.int64)

    def epoch_of(self, batch: int) -> int:
        """The epoch batch i belongs to, from 0."""
        return batch // (len(self._bounds) - 1)

    def _cut(self, ordered: np.ndarray) -> np.ndarray:
        """int64 ``[batches + 1]``: bounds of batches as full as they may be."""
        bounds = array("q", [0])
        while (begin := bounds[-1]) < len(ordered):
            room = min(self._sentences, max(1, self._tokens // max(1, int(ordered[begin]))))
            lengths = ordered[begin : begin + room].astype(np.int64)
            costs = lengths * np.arange(1, len(lengths) + 1)
            fits = int(np.searchsorted(costs, self._tokens, side="right"))
            bounds.append(begin + max(1, fits))
        return np.array(bounds)

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in order of length, rows of one length by lot, so that they meet different company
        every epoch; and the order in which the batches cut out of them come."""
        order = np.empty_like(self._by_length)
        ordered = self._lengths[self._by_length]
        changes = np.flatnonzero(np.diff(ordered)) + 1
        begins = [0, *changes.tolist()]
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            rows = self._by_length[begin:end]
            # Less than one token of noise.
            jittered = ordered[begin] + uniform_array(self._seed, epoch, rows)
            order[begin:end] = rows[np.argsort(jittered, kind="stable")]
        lots = uniform_array(self._seed, epoch, -1 - np.arange(len(self._bounds) - 1))
        return order, np.argsort(lots)
