"""Padding, masks and the shift of targets to decoder inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Ids of one sentence: a list, or an integer array of one dimension.
Ids = Sequence[int] | np.ndarray


def pad_sequences(
    sequences: Sequence[Ids],
    pad_id: int,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Lay ragged id sequences out as one padded matrix.

    Returns:
        ``(ids [B, L] int64, lengths [B] int64)`` with ``L = max(1, longest)``; positions past a
        sequence's length hold ``pad_id``.
    """
    lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
    width = max(1, int(lengths.max(initial=0)))
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : lengths[row]] = np.asarray(sequence)
    return torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)


def length_mask(lengths_B: Tensor, width: int) -> Tensor:
    """``[B, width]`` bool, true at real positions."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def decoder_inputs(targets_BT: Tensor, start_id: int) -> Tensor:
    """Shift right: position t of the result is what the decoder has read before writing target t.

    Args:
        targets_BT: int64 target ids without the start symbol.

    Returns:
        ``[B, T]`` int64: ``start_id`` followed by all targets but the last.
    """
    start = targets_BT.new_full((targets_BT.shape[0], 1), start_id)
    return torch.cat([start, targets_BT[:, :-1]], dim=1)


def packed_index(lengths_B: Tensor, width: int) -> Tensor:
    """Flat indices ``[P]`` int64 into a ``[B * width]`` layout of all real positions, row by row.

    ``hidden_BTD.flatten(0, 1).index_select(0, packed_index(...))`` keeps only what carries loss,
    so no output projection is ever computed for padding.
    """
    return length_mask(lengths_B, width).flatten().nonzero().squeeze(1)
