"""Encoder-decoders that read with recurrent cells instead of self-attention.

The decoder's cell takes the place of self-attention; cross-attention and feed-forward are the
Transformer's, so a step costs the same however much has been written. The encoder is a
Transformer's, or reads with cells in both directions. With the SSRU cell, a Transformer encoder and
``norm: post`` it is Marian's fast model (Kim et al. 2019, "From Research to Production and Back:
Ludicrously Fast Neural Machine Translation").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seq2seq.both_ends import BothEnds, mirror
from seq2seq.cells import CELLS
from seq2seq.dropout import DropoutSource
from seq2seq.layers import Block, DecoderLayer, EncoderLayer, FeedForward, StackConfig
from seq2seq.packing import PADDED, Padded
from seq2seq.transformer import LayeredModel
from seq2seq.transformer_state import Memory, SourceState


class RecurrentConfig(StackConfig):
    """Shape of a :class:`Recurrent` model.

    Attributes:
        cell: of the decoder, and of a recurrent encoder.
        encoder: ``recurrent`` reads in both directions, ``d_model / 2`` numbers each.
        ffn: 0 leaves the feed-forward blocks out (with a recurrent encoder alone).
        positions: ``none`` adds no position to an embedding: cells know the order by themselves.
    """

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["ssru", "sru", "gru", "lstm"] = "ssru"
    encoder: Literal["transformer", "recurrent"] = "transformer"
    ffn: int = Field(1024, ge=0)
    positions: Literal["vaswani", "tensor2tensor", "none"] = "vaswani"  # type: ignore[assignment]

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.encoder == "transformer" and not self.ffn:
            raise ValueError("ffn 0 needs encoder recurrent: a Transformer's has a feed-forward")
        if self.encoder == "transformer" and self.positions == "none":
            raise ValueError("positions none needs encoder recurrent: attention knows no order")
        return self


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
        self.cell = CELLS[config.cell](config.d_model, config.d_model)

    def read(self, x: Tensor, layout: Padded) -> Tensor:
        return layout.pack(self.cell(layout.lay_out(x)))

    def read_one(self, x_N1D: Tensor, layer: int, state: RecurrentState) -> Tensor:
        said, state.own[layer] = self.cell.step(x_N1D.squeeze(1), state.own[layer])
        return said[:, None, :]


class _BidirectionalLayer(BothEnds):
    """Cells from both ends of a source, then feed-forward (none where ``ffn`` is 0)."""

    def __init__(self, config: RecurrentConfig, source: DropoutSource) -> None:
        make, half = CELLS[config.cell], config.d_model // 2
        super().__init__(make(config.d_model, half), make(config.d_model, half))
        self.block = Block(config, source)
        self.feed_forward = FeedForward(config, source) if config.ffn else None
        self.feed_forward_block = Block(config, source) if config.ffn else None

    def forward(self, x: Tensor, mirror_BS: Tensor, layout: Padded = PADDED) -> Tensor:
        y = self.read(layout.lay_out(self.block.before(x)), mirror_BS)
        x = self.block.after(x, layout.pack(y))
        if self.feed_forward is None or self.feed_forward_block is None:
            return x
        return self.feed_forward_block.apply_to(x, self.feed_forward)


class Recurrent(LayeredModel):
    """Recurrent decoder and either encoder behind the shared interface."""

    config: RecurrentConfig

    def _encoder_layer(self, source: DropoutSource) -> nn.Module:
        if self.config.encoder == "recurrent":
            return _BidirectionalLayer(self.config, source)
        return EncoderLayer(self.config, source)

    def _encoder_view(self, lengths_B: Tensor, width: int) -> Tensor:
        if self.config.encoder == "recurrent":
            return mirror(lengths_B, width)
        return super()._encoder_view(lengths_B, width)

    def _decoder_layer(self, source: DropoutSource) -> DecoderLayer:
        return _RecurrentLayer(self.config, source)

    def _decoder_state(self, cross: list[Memory], lengths_B: Tensor, beams: int) -> RecurrentState:
        widths = [
            layer.cell.width for layer in cast(Iterable[_RecurrentLayer], self.decoder_layers)
        ]
        return RecurrentState(cross, lengths_B, beams, widths)
