"""Transformer encoder-decoder in the forms that inference engines know.

``norm: post`` is Marian's layout, ``norm: pre`` Pegasus's (a final layer norm after each stack).
Sinusoidal positions in their half-split layout, embeddings scaled by sqrt(D) and tied to the
output projection, which has a bias.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.dropout import DropoutSource, PooledDropout
from seq2seq.layers import Attention, DecoderLayer, EncoderLayer, StackConfig, key_mask
from seq2seq.model import DecoderState, EncoderOutput, Seq2SeqModel
from seq2seq.packing import PADDED, Packed, Padded, packing
from seq2seq.transformer_state import Memory, SourceState, TransformerState


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


class EncoderDecoder(Seq2SeqModel):
    """A stack of layers that reads, a Transformer's by default, and one that attends to it."""

    config: StackConfig
    positions: Tensor

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout_source = source = DropoutSource()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.logit_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = PooledDropout(config.dropout, source)
        self.encoder_layers = nn.ModuleList(
            self._encoder_layer(source) for _ in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            self._decoder_layer(source) for _ in range(config.decoder_layers)
        )
        pre = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()
        # One more than the longest target: a target at the limit is read behind a start symbol.
        length = max(config.max_source_length, config.max_target_length) + 1
        table = sinusoidal_positions(length, config.d_model, config.positions)
        self.register_buffer("positions", table, persistent=False)
        self._scale = math.sqrt(config.d_model)
        self._initialise()

    def _encoder_layer(self, source: DropoutSource) -> nn.Module:
        """A layer of the encoder; it takes states, what :meth:`_encoder_view` says, a layout."""
        return EncoderLayer(self.config, source)

    def _encoder_view(self, lengths_B: Tensor, width: int) -> Tensor:
        """What the encoder's layers have to know of a batch's padding."""
        return key_mask(lengths_B, width)

    @abstractmethod
    def _decoder_layer(self, source: DropoutSource) -> DecoderLayer:
        """A layer of the decoder, for ``self.config``."""

    @abstractmethod
    def _decoder_state(self, cross: list[Memory], lengths_B: Tensor, beams: int) -> SourceState:
        """What the decoder's layers remember before the first token."""

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.config.d_model**-0.5)

    def _decoder(self) -> Iterable[DecoderLayer]:
        return cast(Iterable[DecoderLayer], self.decoder_layers)

    def _embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = self.positions[: ids.shape[1]]
        return self.dropout(torch.add(positions, self.embedding(ids), alpha=self._scale))

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EncoderOutput:
        width = source_BS.shape[1]
        layout = packing(lengths_B, width, self.training)
        x = layout.pack(self._embed(source_BS))
        view = self._encoder_view(lengths_B, width)
        for layer in self.encoder_layers:
            x = layer(x, view, layout)
        return EncoderOutput(layout.lay_out(self.encoder_norm(x)), lengths_B)

    def decode(self, encoded: EncoderOutput, inputs_BT: Tensor) -> Tensor:
        return self._decode(encoded, inputs_BT, PADDED, PADDED)

    def decode_real(self, encoded: EncoderOutput, inputs_BT: Tensor, lengths_B: Tensor) -> Tensor:
        width = encoded.states_BSD.shape[1]
        sources = packing(encoded.lengths_B, width, self.training)
        return self._decode(encoded, inputs_BT, sources, Packed(lengths_B, inputs_BT.shape[1]))

    def _decode(
        self, encoded: EncoderOutput, inputs_BT: Tensor, sources: Padded, targets: Padded
    ) -> Tensor:
        """Hidden states in the layout of the targets."""
        x = targets.pack(self._embed(inputs_BT))
        states = sources.pack(encoded.states_BSD)
        mask = key_mask(encoded.lengths_B, encoded.states_BSD.shape[1])
        for layer in self._decoder():
            x = layer(x, *layer.cross_keys(states, sources), mask, targets)
        return self.decoder_norm(x)

    def output_projection(self) -> tuple[Tensor, Tensor]:
        return self.embedding.weight, self.logit_bias

    def start(self, encoded: EncoderOutput, beams: int = 1) -> SourceState:
        states = encoded.states_BSD
        cross = [Memory.of(*layer.cross_keys(states)) for layer in self._decoder()]
        return self._decoder_state(cross, encoded.lengths_B, beams)

    def step(self, tokens_N: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, SourceState)
        x = self._embed(tokens_N[:, None], state.begin_step(self.positions))
        for index, layer in enumerate(self._decoder()):
            x = layer.step(x, index, state)
        state.end_step()
        return self.decoder_norm(x).squeeze(1)


class Transformer(EncoderDecoder):
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
