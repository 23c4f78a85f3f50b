"""Transformer encoder-decoder in the forms that inference engines know.

``norm: post`` is Marian's layout, ``norm: pre`` Pegasus's (a final layer norm after each stack).
Sinusoidal positions in their half-split layout.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.dropout import DropoutSource
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.layers import Attention, DecoderLayer, EncoderLayer, StackConfig, key_mask
from seq2seq.model import EncoderOutput
from seq2seq.packing import Padded
from seq2seq.transformer_state import Memory, TransformerState


class TransformerConfig(StackConfig):
    """Shape of a :class:`Transformer`."""

    kind: Literal["transformer"] = "transformer"


class _SelfAttentionLayer(DecoderLayer):
    def _make_own(self, config: StackConfig) -> None:
        self.self_attention = Attention(config, own=True)

    def read(self, x: Tensor, layout: Padded) -> Tensor:
        q, k, v = self.self_attention.split(self.self_attention.packed(x), 3, layout)
        # Targets are padded at their ends only: the causal mask already hides all padding.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.self_attention.merge(y, layout)

    def read_one(self, x_N1D: Tensor, layer: int, state: TransformerState) -> Tensor:
        q, k, v = self.self_attention.split(self.self_attention.packed(x_N1D), 3)
        return self.self_attention.merge(state.attend_own(layer, q, k, v))


class LayeredModel(EncoderDecoder):
    """Layers that read, a Transformer's by default, and layers each of which attends to it."""

    config: StackConfig

    def _make_layers(self) -> None:
        config, source = self.config, self.dropout_source
        self.encoder_layers = nn.ModuleList(
            self._encoder_layer(source) for _ in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            self._decoder_layer(source) for _ in range(config.decoder_layers)
        )
        pre = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()

    def _encoder_layer(self, source: DropoutSource) -> nn.Module:
        return EncoderLayer(self.config, source)

    @abstractmethod
    def _decoder_layer(self, source: DropoutSource) -> DecoderLayer:
        """A layer of the decoder, for ``self.config``."""

    def _encoder_view(self, lengths_B: Tensor, width: int) -> Tensor:
        return key_mask(lengths_B, width)

    def _encoder_end(self, x: Tensor) -> Tensor:
        return self.encoder_norm(x)

    def _position_table(self, length: int) -> Tensor:
        return sinusoidal_positions(length, self.config.d_model, self.config.positions)

    def _decoder(self) -> Iterable[DecoderLayer]:
        return cast(Iterable[DecoderLayer], self.decoder_layers)

    def _decode(
        self, encoded: EncoderOutput, inputs_BT: Tensor, sources: Padded, targets: Padded
    ) -> Tensor:
        x = targets.pack(self._embed(self.embedding(inputs_BT)))
        states = sources.pack(encoded.states_BSD)
        mask = key_mask(encoded.lengths_B, encoded.states_BSD.shape[1])
        for layer in self._decoder():
            x = layer(x, *layer.cross_keys(states, sources), mask, targets)
        return self.decoder_norm(x)

    def cross_memory(self, states_BSD: Tensor) -> list[Memory]:
        return [Memory.of(*layer.cross_keys(states_BSD)) for layer in self._decoder()]

    def _step(self, x_N1D: Tensor, state: Any) -> Tensor:
        x = x_N1D
        for index, layer in enumerate(self._decoder()):
            x = layer.step(x, index, state)
        return self.decoder_norm(x).squeeze(1)


class Transformer(LayeredModel):
    """Encoder-decoder Transformer (Vaswani et al. 2017) behind the shared interface."""

    config: TransformerConfig

    def _decoder_layer(self, source: DropoutSource) -> DecoderLayer:
        return _SelfAttentionLayer(self.config, source)

    def _decoder_state(
        self, cross: list[Memory], lengths_B: Tensor, beams: int
    ) -> TransformerState:
        return TransformerState(cross, lengths_B, beams)


def sinusoidal_positions(length: int, d_model: int, positions: str = "vaswani") -> Tensor:
    """``[length, D]`` float32: sines in the first half of each row, cosines in the second.

    Sine i turns by ``10000 ** -r`` radians a position, ``r = 2 i / D`` in the paper
    (``vaswani``). In ``tensor2tensor``, and so in Marian, ``r = 2 i / (D - 2)``: the last is 1.
    ``none`` is a table of zeros.
    """
    if positions == "none":
        return torch.zeros(length, d_model)
    steps = d_model if positions == "vaswani" else max(1, d_model - 2)
    rates = torch.pow(10000.0, -torch.arange(0, d_model, 2, dtype=torch.float64) / steps)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
