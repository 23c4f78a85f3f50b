"""From scored shards to the tensors of one training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seq2seq.batch import pad_sequences
from student_trainer.types import ScoredShard


@dataclass(frozen=True)
class TrainingBatch:
    """One batch, rows of all shards one under the other.

    ``P`` loss positions are every real target position, an early end symbol included: first the
    ``Q`` that the teacher scored, then the rest, each row by row.

    Attributes:
        source_BS, source_lengths_B: encoder inputs.
        target_BT: what the decoder reads, once shifted.
        index_P: int64, where in ``[B * T]`` each loss position lies.
        target_P: int64 targets of the loss positions.
        ids_QK, log_probs_QK, tail_log_mass_Q, token_log_probs_Q, states_QD: what the teacher said
            at the scored ones, as in :class:`~student_trainer.types.TeacherLabels`; what it was not
            asked for has no columns (or, a single number, no rows).
    """

    source_BS: Tensor
    source_lengths_B: Tensor
    target_BT: Tensor
    index_P: Tensor
    target_P: Tensor
    ids_QK: Tensor
    log_probs_QK: Tensor
    tail_log_mass_Q: Tensor
    token_log_probs_Q: Tensor
    states_QD: Tensor

    @property
    def positions(self) -> int:
        """Loss positions P."""
        return len(self.index_P)

    @property
    def scored_positions(self) -> int:
        """Loss positions Q with labels of the teacher."""
        return len(self.ids_QK)


def assemble(
    shards: Sequence[ScoredShard], pad_id: int, device: torch.device | str
) -> TrainingBatch:
    """Join the shards of one batch in their order.

    Raises:
        ValueError: the shards are of different batches or versions, or out of order.
    """
    _check(shards)
    return _joined(shards, pad_id, device)


def assemble_each(
    shards: Sequence[ScoredShard], pad_id: int, device: torch.device | str
) -> list[TrainingBatch]:
    """Each shard of one batch by itself, for gradients that are added up.

    Raises:
        ValueError: see :func:`assemble`.
    """
    _check(shards)
    return [_joined([shard], pad_id, device) for shard in shards]


def _check(shards: Sequence[ScoredShard]) -> None:
    first = shards[0]
    found = [(s.batch, s.version, s.shard) for s in shards]
    if found != [(first.batch, first.version, j) for j in range(len(shards))]:
        raise ValueError(f"shards do not make up one batch: (batch, version, shard) are {found}")


def _joined(
    shards: Sequence[ScoredShard], pad_id: int, device: torch.device | str
) -> TrainingBatch:
    sources = [row for s in shards for row in s.sources.rows()]
    source_BS, source_lengths_B = pad_sequences(sources, pad_id, device)
    targets = [row for s in shards for row in s.targets.rows()]
    target_BT, _ = pad_sequences(targets, pad_id, device)
    scored, labels = [], []
    offset = 0
    for shard in shards:
        if shard.labels is not None:
            scored.append(shard.labels.positions + offset)
            labels.append(shard.labels)
        offset += shard.positions
    order_P = _scored_first(scored, offset)
    places = [b * target_BT.shape[1] + np.arange(len(row)) for b, row in enumerate(targets)]
    return TrainingBatch(
        source_BS,
        source_lengths_B,
        target_BT,
        _join(places, np.int64, (0,), "cpu")[order_P].to(device),
        _join([s.targets.ids_P for s in shards], np.int64, (0,), "cpu")[order_P].to(device),
        _join([x.ids_QK for x in labels], np.int64, (0, 1), device),
        _join([x.log_probs_QK for x in labels], np.float32, (0, 1), device),
        _join([x.tail_log_mass_Q for x in labels], np.float32, (0,), device),
        _join(
            [x.token_log_probs_Q for x in labels if x.token_log_probs_Q is not None],
            np.float32,
            (0,),
            device,
        ),
        _join([x.states_QD for x in labels if x.states_QD is not None], np.float32, (0, 0), device),
    )


def _scored_first(scored: list[np.ndarray], positions: int) -> np.ndarray:
    """int64 ``[P]``: packed positions, those the teacher scored before the others."""
    if not scored:
        return np.arange(positions)
    scored_Q = np.concatenate(scored)
    unscored = np.ones(positions, dtype=bool)
    unscored[scored_Q] = False
    return np.concatenate([scored_Q, unscored.nonzero()[0]])


def _join(
    arrays: list[np.ndarray], dtype: type, empty: tuple[int, ...], device: torch.device | str
) -> Tensor:
    joined = np.concatenate(arrays) if arrays else np.zeros(empty)
    return torch.from_numpy(joined.astype(dtype)).to(device)
