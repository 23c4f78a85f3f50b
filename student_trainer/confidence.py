"""The confidence filter of dataset aggregation: student rows that the teacher doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from student_trainer.types import Ragged, ScoredShard, TeacherLabels


def without_doubtful(
    shard: ScoredShard, data: Sequence[np.ndarray], threshold: float
) -> ScoredShard:
    """Student rows count only where the mean probability of the teacher's arg-max is above
    ``threshold``; the others get their data target back, and no label.

    Args:
        data: the target of every row as the data has it.
    """
    if shard.labels is None:
        return shard
    labels, lengths = shard.labels, shard.targets.lengths_B
    row_Q = np.repeat(np.arange(len(lengths)), lengths)[labels.positions]
    best_Q = np.exp(labels.log_probs_QK.max(axis=1))
    sums, counts = (np.bincount(row_Q, w, len(lengths)) for w in (best_Q, np.ones_like(best_Q)))
    doubtful = shard.from_student & (sums <= threshold * counts)
    if not doubtful.any():
        return shard
    old = shard.targets.rows()
    targets = [data[i] if drop else old[i] for i, drop in enumerate(doubtful)]
    kept_Q = ~doubtful[row_Q]
    # Where each row begins, before and after.
    begins, begins_new = (np.cumsum([0, *(len(t) for t in rows)])[:-1] for rows in (old, targets))
    moved = labels.positions - begins[row_Q] + begins_new[row_Q]
    arrays = {
        name: array[kept_Q]
        for name, array in vars(labels).items()
        if name != "positions" and array is not None
    }
    return replace(
        shard,
        targets=Ragged.of(targets),
        from_student=shard.from_student & ~doubtful,
        labels=TeacherLabels(positions=moved[kept_Q], **arrays) if kept_Q.any() else None,
    )
