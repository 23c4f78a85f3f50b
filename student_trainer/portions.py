"""A batch in portions: what each process of a learner learns of it.

Rows are dealt out by length, the longest first, in runs such that the most work of a process (its
rows, each padded to the longest) is least. A function of the batch alone, so that a step run again
is the same. Every process divides its sum of losses by the positions of the whole batch, hence the
gradients of the portions add up to the batch's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from student_trainer.types import Ragged, ScoredShard, TeacherLabels


@dataclass(frozen=True)
class Portion:
    """All of a batch, or what one process has of it.

    Attributes:
        step: the optimiser step that learns it, from 1.
        positions: loss positions of the whole batch.
        shards: all of the batch, each with the rows of this portion.
    """

    step: int
    positions: int
    shards: Sequence[ScoredShard]

    @classmethod
    def whole(cls, step: int, shards: Sequence[ScoredShard]) -> Portion:
        """The batch, undivided."""
        return cls(step, sum(shard.positions for shard in shards), shards)

    def divided(self, count: int) -> list[Portion]:
        """``count`` portions; some without rows where there are fewer rows than that."""
        parts = split(self.shards, count)
        return [Portion(self.step, self.positions, shards) for shards in parts]

    def tensors(self) -> dict[str, Tensor]:
        """What learning needs of it, as named tensors: ``SHARD/NAME``."""
        found = {"step": torch.tensor(self.step), "positions": torch.tensor(self.positions)}
        for number, shard in enumerate(self.shards):
            for side, ragged in (("source", shard.sources), ("target", shard.targets)):
                found[f"{number}/{side}_ids"] = torch.from_numpy(ragged.ids_P)
                found[f"{number}/{side}_lengths"] = torch.from_numpy(ragged.lengths_B)
            if shard.labels is not None:
                arrays = shard.labels.arrays() | {"positions": shard.labels.positions}
                for name, array in arrays.items():
                    found[f"{number}/labels/{name}"] = torch.from_numpy(array)
        return found

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Portion:
        """What :meth:`tensors` was made of; of a shard's account only what learning needs."""
        step, positions = int(tensors["step"]), int(tensors["positions"])
        arrays = [(*k.partition("/")[::2], t.numpy()) for k, t in tensors.items() if "/" in k]
        arrays.sort(key=lambda named: int(named[0]))
        shards = [
            _shard(step - 1, int(number), {name: array for _, name, array in named})
            for number, named in groupby(arrays, key=lambda named: named[0])
        ]
        return cls(step, positions, shards)


def _shard(batch: int, number: int, arrays: dict[str, np.ndarray]) -> ScoredShard:
    sources, targets = (
        Ragged(arrays[f"{side}_ids"], arrays[f"{side}_lengths"]) for side in ("source", "target")
    )
    labels = {
        name.removeprefix("labels/"): array
        for name, array in arrays.items()
        if name.startswith("labels/")
    }
    return ScoredShard(
        batch=batch,
        shard=number,
        version=0,
        beta=0.0,
        sources=sources,
        targets=targets,
        from_student=np.zeros(len(targets), dtype=bool),
        labels=TeacherLabels(**labels) if labels else None,
    )


def split(shards: Sequence[ScoredShard], count: int) -> list[list[ScoredShard]]:
    """The shards' rows in ``count`` parts of about equal work; rows keep their order."""
    lengths = np.concatenate([s.sources.lengths_B + s.targets.lengths_B for s in shards])
    order = np.argsort(-lengths, kind="stable")
    owner_B = np.empty(len(lengths), dtype=np.int64)
    owner_B[order] = np.repeat(np.arange(count), run_lengths(lengths[order].tolist(), count))
    owners = np.split(owner_B, np.cumsum([len(s.targets) for s in shards])[:-1])
    return [
        [shard.only(own_B == part) for shard, own_B in zip(shards, owners, strict=True)]
        for part in range(count)
    ]


def run_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """Rows of falling length in ``count`` runs: how many rows each has.

    The work of a run is its rows times the length of the first; the most work of a run is as little
    as can be.
    """

    def enough(work: int) -> bool:
        return sum(_runs(lengths, count, work)) == len(lengths)

    most = max(lengths, default=0) * len(lengths)
    return _runs(lengths, count, bisect_left(range(most), True, key=enough))


def _runs(lengths: Sequence[int], count: int, work: int) -> list[int]:
    """Runs as long as ``work`` allows; not all rows where it is too little."""
    runs, begin = [], 0
    for _ in range(count):
        left = len(lengths) - begin
        runs.append(min(left, work // max(1, lengths[begin])) if left else 0)
        begin += runs[-1]
    return runs
