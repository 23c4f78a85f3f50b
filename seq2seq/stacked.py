"""Cells on top of each other and one attention: the recurrent students of the ImitKD paper.

Layers are cells and nothing else, without residual connections or norms, so that each side has a
width of its own. Above the decoder's last cell stands the one attention, ``tanh(W [c; h])`` of what
the cell says, h, and what it finds in the source, c (Luong et al. 2015, "Effective Approaches to
Attention-based Neural Machine Translation", global attention). A linear map leads from there to the
width of the embeddings, to which the output projection is tied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.both_ends import BothEnds, mirror
from seq2seq.cells import CELLS, SRU, Cell
from seq2seq.encoder_decoder import EncoderDecoder, ShapeConfig
from seq2seq.layers import key_mask
from seq2seq.model import EncoderOutput
from seq2seq.packing import PADDED, Padded
from seq2seq.recurrent import RecurrentState
from seq2seq.transformer_state import Memory


class StackedConfig(ShapeConfig):
    """Shape of a :class:`Stacked` model; ``d_model`` is the width of its embeddings.

    Attributes:
        encoder_width: numbers that a cell of the encoder says, one in each direction.
        decoder_width: numbers that a cell of the decoder says.
        projection: of SRU cells; see :class:`~seq2seq.cells.SRU`.
        shared_embeddings: sources are read with the embeddings of targets, not with a table of
            their own.
    """

    kind: Literal["stacked"] = "stacked"
    cell: Literal["ssru", "sru", "gru", "lstm"] = "sru"
    encoder_width: int = Field(256, ge=1)
    decoder_width: int = Field(512, ge=1)
    encoder_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(2, ge=1)
    projection: int = Field(0, ge=0)
    shared_embeddings: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.projection and self.cell != "sru":
            raise ValueError(f"projection is for cell sru; remove it for cell {self.cell}")
        return self

    def in_words(self) -> str:
        return (
            f"{self.encoder_layers} encoder layers of {self.encoder_width} in each direction and "
            f"{self.decoder_layers} decoder layers of {self.decoder_width}, embeddings of "
            f"{self.d_model}"
        )


class _EncoderLayer(BothEnds):
    """Reads what the layer below it says, thinned out by ``dropout``."""

    def __init__(self, rightwards: Cell, leftwards: Cell, dropout: nn.Module) -> None:
        super().__init__(rightwards, leftwards)
        self.dropout = dropout

    def forward(self, x: Tensor, mirror_BS: Tensor, layout: Padded = PADDED) -> Tensor:
        return layout.pack(self.read(layout.lay_out(self.dropout(x)), mirror_BS))


class Stacked(EncoderDecoder):
    """Stacks of cells behind the shared interface."""

    config: StackedConfig

    def _make_layers(self) -> None:
        config = self.config
        ends, width = 2 * config.encoder_width, config.decoder_width
        self.source_embedding = (
            None if config.shared_embeddings else nn.Embedding(config.vocab_size, config.d_model)
        )
        self.encoder_layers = nn.ModuleList(
            self._encoder_layer(config.d_model if number == 0 else ends, number)
            for number in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            self._cell(config.d_model if number == 0 else width, width)
            for number in range(config.decoder_layers)
        )
        # A query and what it is compared with are of one width.
        self.bridge = None if ends == width else nn.Linear(ends, width, bias=False)
        self.combined = nn.Linear(2 * width, width)
        self.narrowed = nn.Linear(width, config.d_model)

    def _encoder_layer(self, d_in: int, number: int) -> _EncoderLayer:
        width = self.config.encoder_width
        # Both together say what an SRU of that width would: each carries its half of what is read.
        halves = (range(width), range(width, 2 * width)) if d_in == 2 * width else (range(0),) * 2
        right, left = (self._cell(d_in, width, half) for half in halves)
        # Embeddings come with a dropout of their own.
        return _EncoderLayer(right, left, self.dropout if number else nn.Identity())

    def _cell(self, d_in: int, d_out: int, carried: range | None = None) -> Cell:
        if self.config.cell == "sru":
            return SRU(d_in, d_out, self.config.projection, carried)
        return CELLS[self.config.cell](d_in, d_out)

    def _cells(self) -> Iterable[Cell]:
        return cast(Iterable[Cell], self.decoder_layers)

    def _source_embedding(self) -> nn.Embedding:
        return self.embedding if self.source_embedding is None else self.source_embedding

    def _encoder_view(self, lengths_B: Tensor, width: int) -> Tensor:
        return mirror(lengths_B, width)

    def _encoder_end(self, x: Tensor) -> Tensor:
        return x if self.bridge is None else self.bridge(x)

    def _hidden(self, said: Tensor, found: Tensor) -> Tensor:
        """``[..., D]`` of what the last cell said and the attention found."""
        together = self.combined(torch.cat([found, said], -1)).tanh()
        return self.narrowed(self.dropout(together))

    def _decode(
        self, encoded: EncoderOutput, inputs_BT: Tensor, sources: Padded, targets: Padded
    ) -> Tensor:
        x = self._embed(self.embedding(inputs_BT))
        for number, cell in enumerate(self._cells()):
            x = cell(self.dropout(x) if number else x)
        states = encoded.states_BSD[:, None]
        mask = key_mask(encoded.lengths_B, states.shape[2])
        found = F.scaled_dot_product_attention(x[:, None], states, states, attn_mask=mask)
        return self._hidden(targets.pack(x), targets.pack(found.squeeze(1)))

    def cross_memory(self, states_BSD: Tensor) -> list[Memory]:
        states = states_BSD[:, None]
        return [Memory.of(states, states)]

    def _decoder_state(self, cross: list[Memory], lengths_B: Tensor, beams: int) -> RecurrentState:
        return RecurrentState(cross, lengths_B, beams, [cell.width for cell in self._cells()])

    def _step(self, x_N1D: Tensor, state: Any) -> Tensor:
        x = x_N1D.squeeze(1)
        for number, cell in enumerate(self._cells()):
            x, state.own[number] = cell.step(self.dropout(x) if number else x, state.own[number])
        # The beams of one source stand side by side as queries: it is kept once.
        n, width = x.shape
        found = state.attend_cross(0, x.view(n // state.beams, 1, state.beams, width))
        return self._hidden(x, found.view(n, width))
