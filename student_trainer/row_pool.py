"""Student-written rows that outlive their batch: dataset aggregation, and the replay buffer.

The learner keeps rows with what the teacher said of them. The teacher does not change, so a row
drawn again needs neither generation nor scoring; only the student's side is computed anew. Batches
come in index order and draws are a function of (seed, batch), so the pool is as reproducible as the
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seq2seq.noise import uniform_array
from student_trainer.types import Ragged, ScoredShard, TeacherLabels

_DRAWS = 0x706F6F6C


@dataclass(frozen=True)
class PooledRow:
    """One student-written row.

    Attributes:
        source, target: int32 ids.
        labels: arrays of :class:`TeacherLabels` by name, one entry a target position.
    """

    source: np.ndarray
    target: np.ndarray
    labels: dict[str, np.ndarray]


class RowPool:
    """The newest ``rows`` student-written rows.

    Args:
        kind: ``aggregation``: the student's rows of a batch are drawn from the whole pool, the new
            ones among it. ``replay``: as many rows as the shards left out are drawn and added.
    """

    def __init__(self, kind: Literal["aggregation", "replay"], rows: int, seed: int) -> None:
        self._kind, self._limit, self._seed = kind, rows, seed
        self._rows: list[PooledRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def exchange(self, shards: Sequence[ScoredShard]) -> list[ScoredShard]:
        """Take in a batch's student rows and give back the batch that is to be learnt.

        Rows left out while the pool was still empty stay left out.
        """
        # Replayed rows are older than the batch: drawn before its own come in.
        replayed = [self._drawn(s, s.replayed) for s in shards] if self._kind == "replay" else []
        self._rows += [row for shard in shards for row in _student_rows(shard)]
        del self._rows[: -self._limit]
        if self._kind == "replay":
            return [_with_rows(s, rows) for s, rows in zip(shards, replayed, strict=True)]
        return [
            _with_rows(s.only(~s.from_student), self._drawn(s, int(s.from_student.sum())))
            for s in shards
        ]

    def _drawn(self, shard: ScoredShard, count: int) -> list[PooledRow]:
        if not self._rows or not count:
            return []
        u = uniform_array(self._seed ^ _DRAWS, shard.batch, shard.shard, np.arange(count))
        return [self._rows[i] for i in (u * len(self._rows)).astype(int)]

    def export(self) -> dict[str, Tensor]:
        """All rows as named tensors, for a checkpoint."""
        if not self._rows:
            return {}
        arrays: dict[str, np.ndarray] = {}
        for side in ("source", "target"):
            ragged = Ragged.of([getattr(row, side) for row in self._rows])
            arrays |= {f"{side}_ids": ragged.ids_P, f"{side}_lengths": ragged.lengths_B}
        for name in self._rows[0].labels:
            arrays[f"labels_{name}"] = np.concatenate([row.labels[name] for row in self._rows])
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`export` returned."""
        self._rows = []
        if not tensors:
            return
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        sources, targets = (
            Ragged(arrays[f"{side}_ids"], arrays[f"{side}_lengths"]).rows()
            for side in ("source", "target")
        )
        ends = np.cumsum([len(target) for target in targets])
        for source, target, end in zip(sources, targets, ends, strict=True):
            labels = {
                name.removeprefix("labels_"): array[end - len(target) : end]
                for name, array in arrays.items()
                if name.startswith("labels_")
            }
            self._rows.append(PooledRow(source, target, labels))


def _student_rows(shard: ScoredShard) -> Iterator[PooledRow]:
    """The rows that the student wrote, every position of them labelled."""
    if shard.labels is None:
        return
    kept = shard.labels.arrays()
    ends = np.cumsum(shard.targets.lengths_B)
    rows = zip(shard.sources.rows(), shard.targets.rows(), ends, shard.from_student, strict=True)
    for source, target, end, own in rows:
        if own:
            begin, stop = np.searchsorted(shard.labels.positions, [end - len(target), end])
            labels = {name: array[begin:stop].copy() for name, array in kept.items()}
            yield PooledRow(source.copy(), target.copy(), labels)


def _with_rows(shard: ScoredShard, rows: Sequence[PooledRow]) -> ScoredShard:
    """A shard with labelled rows added behind its own."""
    if not rows:
        return shard
    added = sum(len(row.target) for row in rows)
    positions = [np.arange(added, dtype=np.int64) + shard.positions]
    parts = {name: [row.labels[name] for row in rows] for name in rows[0].labels}
    if shard.labels is not None:
        positions.insert(0, shard.labels.positions)
        for name, arrays in parts.items():
            arrays.insert(0, getattr(shard.labels, name))
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return replace(
        shard,
        sources=Ragged.of([*shard.sources.rows(), *(row.source for row in rows)]),
        targets=Ragged.of([*shard.targets.rows(), *(row.target for row in rows)]),
        from_student=np.concatenate([shard.from_student, np.ones(len(rows), dtype=bool)]),
        labels=TeacherLabels(positions=np.concatenate(positions), **joined),
    )
