"""Inference without padding: only attention and recurrences see the padded layout.

Most of a layer's work is done position by position (projections, feed-forward, norms). In a batch
of mixed lengths a fifth of the positions or more is padding; here that work is done on the real
positions, laid end to end, and rows are laid out again where positions look at each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq.batch import length_mask


class Padded:
    """Rows as they are, padding and all."""

    def pack(self, x_BLD: Tensor) -> Tensor:
        """Of the padded layout what the layers work on."""
        return x_BLD

    def lay_out(self, x: Tensor) -> Tensor:
        """What the layers work on, in the padded layout."""
        return x


class Packed(Padded):
    """Real positions ``[P, D]``, row by row.

    Args:
        lengths_B: int64 number of real positions of each row of the batch, not all of them 0.
        width: of the padded layout.
    """

    def __init__(self, lengths_B: Tensor, width: int) -> None:
        real_BL = length_mask(lengths_B, width)
        self._shape = real_BL.shape
        self._index_P = real_BL.flatten().nonzero().squeeze(1)
        self._place_N = real_BL.flatten().cumsum(0).sub_(1).clamp_(min=0)

    def pack(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.flatten(0, 1).index_select(0, self._index_P)

    def lay_out(self, x: Tensor) -> Tensor:
        """Copies of a real position stand for padding: finite, and not to be looked at."""
        return x.index_select(0, self._place_N).view(*self._shape, -1)


PADDED = Padded()


def packing(lengths_B: Tensor, width: int, training: bool) -> Padded:
    """How to work on a batch: without padding, except where gradients or nothing are at stake."""
    if training or torch.is_grad_enabled() or int(lengths_B.sum()) == len(lengths_B) * width:
        return PADDED
    return Packed(lengths_B, width)
