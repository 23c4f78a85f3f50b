"""Encoder-decoder whose decoder reads its own text with a recurrent cell instead of self-attention.

The encoder, cross-attention and feed-forward are the Transformer's; a step costs the same however
much has been written. With the SSRU cell and ``norm: post`` it is the decoder of Marian's fast
models (Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine
Translation").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from seq2seq.dropout import DropoutSource
from seq2seq.packing import Padded
from seq2seq.transformer import DecoderLayer, EncoderDecoder, StackConfig
from seq2seq.transformer_state import Memory, SourceState


class RecurrentConfig(StackConfig):
    """Shape of a :class:`Recurrent` model."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["ssru"] = "ssru"


class Cell(nn.Module, ABC):
    """Reads a text from left to right; all it remembers is one row of ``width`` numbers.

    Attributes:
        width: W; zeros before the first token.
    """

    width: int

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> Tensor:
        """What it says at each position of whole texts, ``[B, T, D]``."""

    @abstractmethod
    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        """What it says ``[N, D]`` having read one more token, and what it then remembers."""


class SSRU(Cell):
    """Simpler Simple Recurrent Unit (Kim et al. 2019, section 3.1).

    ``f = sigmoid(W_f x + b_f)``, ``c' = f * c + (1 - f) * W x``, and it says ``relu(c')``.
    ``packed`` holds ``W`` over ``W_f``: neither product depends on what was read before, so those
    of a whole text are one.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.width = d_model
        self.packed = nn.Linear(d_model, 2 * d_model, bias=False)
        self.forget_bias = nn.Parameter(torch.zeros(d_model))

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        new, forget = self.packed(x).chunk(2, -1)
        keep = torch.sigmoid(forget + self.forget_bias)
        # Under autocast the products are narrow and what is added up over a text is not.
        return new.to(keep.dtype), keep

    def forward(self, x_BTD: Tensor) -> Tensor:
        new, keep = self._gates(x_BTD)
        memory, read = torch.zeros_like(new[:, 0]), []
        for now, share in zip(new.unbind(1), keep.unbind(1), strict=True):
            memory = torch.lerp(now, memory, share)
            read.append(memory)
        return torch.stack(read, 1).relu()

    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        new, keep = self._gates(x_ND)
        memory = torch.lerp(new, memory_NW, keep)
        return memory.relu(), memory


_CELLS: dict[str, Callable[[int], Cell]] = {"ssru": SSRU}


class RecurrentState(SourceState):
    """With what the cells remember.

    Attributes:
        own: per layer, ``[N, W]``.
    """

    def __init__(
        self, cross: list[Memory], lengths_B: Tensor, beams: int, widths: list[int]
    ) -> None:
        super().__init__(cross, lengths_B, beams)
        rows = len(lengths_B) * beams
        self.own = [cross[0].keys.new_zeros(rows, width) for width in widths]

    def _join_own(self, other: RecurrentState) -> None:
        self.own = [torch.cat(pair) for pair in zip(self.own, other.own, strict=True)]

    def _keep_own(self, index_N: Tensor, longest: int) -> None:
        self._reorder_own(index_N)

    def _reorder_own(self, index_N: Tensor) -> None:
        self.own = [memory.index_select(0, index_N) for memory in self.own]


class _RecurrentLayer(DecoderLayer):
    def _make_own(self, config: StackConfig) -> None:
        assert isinstance(config, RecurrentConfig)
        self.cell = _CELLS[config.cell](config.d_model)

    def read(self, x: Tensor, layout: Padded) -> Tensor:
        return layout.pack(self.cell(layout.lay_out(x)))

    def read_one(self, x_N1D: Tensor, layer: int, state: RecurrentState) -> Tensor:
        said, state.own[layer] = self.cell.step(x_N1D.squeeze(1), state.own[layer])
        return said[:, None, :]


class Recurrent(EncoderDecoder):
    """Transformer encoder and recurrent decoder behind the shared interface."""

    config: RecurrentConfig

    def _decoder_layer(self, source: DropoutSource) -> DecoderLayer:
        return _RecurrentLayer(self.config, source)

    def _decoder_state(self, cross: list[Memory], lengths_B: Tensor, beams: int) -> RecurrentState:
        widths = [
            layer.cell.width for layer in cast(Iterable[_RecurrentLayer], self.decoder_layers)
        ]
        return RecurrentState(cross, lengths_B, beams, widths)
