"""Reading a source with two cells, one from each end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seq2seq.batch import length_mask
from seq2seq.cells import Cell


class BothEnds(nn.Module):
    """Two cells: what they say stands side by side."""

    def __init__(self, rightwards: Cell, leftwards: Cell) -> None:
        super().__init__()
        self.rightwards = rightwards
        self.leftwards = leftwards

    def read(self, x_BSD: Tensor, mirror_BS: Tensor) -> Tensor:
        """``[B, S, 2 * d_out]``; ``mirror_BS``: see :func:`mirror`."""
        right = self.rightwards(x_BSD)
        left = _turned(self.leftwards(_turned(x_BSD, mirror_BS)), mirror_BS)
        return torch.cat([right, left], -1)


def mirror(lengths_B: Tensor, width: int) -> Tensor:
    """int64 ``[B, width]``: for each real position the one as far from the other end of its row."""
    places = torch.arange(width, device=lengths_B.device).expand(lengths_B.shape[0], width)
    return torch.where(length_mask(lengths_B, width), lengths_B[:, None] - 1 - places, places)


def _turned(x_BSD: Tensor, mirror_BS: Tensor) -> Tensor:
    return x_BSD.gather(1, mirror_BS[:, :, None].expand_as(x_BSD))
