"""Transformer encoder-decoder in the forms that inference engines know.

``norm: post`` is Marian's layout, ``norm: pre`` Pegasus's (a final layer norm after each stack).
Sinusoidal positions in their half-split layout, embeddings scaled by sqrt(D) and tied to the
output projection, which has a bias. The query, key and value projections of self-attention are one
matrix, as are key and value of cross-attention; an export splits them by rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.batch import length_mask
from seq2seq.dropout import DropoutSource, PooledDropout
from seq2seq.model import DecoderState, EncoderOutput, Seq2SeqModel
from seq2seq.packing import PADDED, Packed, Padded, packing
from seq2seq.transformer_state import Memory, SourceState, TransformerState
from seq2seq.vocabulary import EOS_ID, PAD_ID, START_ID


class StackConfig(BaseModel):
    """Shape of an :class:`EncoderDecoder`; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=5)
    d_model: int = Field(256, ge=2)
    heads: int = Field(4, ge=1)
    ffn: int = Field(1024, ge=1)
    encoder_layers: int = Field(3, ge=1)
    decoder_layers: int = Field(3, ge=1)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu", "swish"] = "relu"
    positions: Literal["vaswani", "tensor2tensor"] = "vaswani"
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    max_source_length: int = Field(256, ge=1)
    max_target_length: int = Field(256, ge=1)
    pad_id: int = PAD_ID
    eos_id: int = EOS_ID
    start_id: int = START_ID

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(
                f"d_model {self.d_model} must be even and a multiple of heads {self.heads}"
            )
        return self


class TransformerConfig(StackConfig):
    """Shape of a :class:`Transformer`."""

    kind: Literal["transformer"] = "transformer"


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swish": F.silu,
}


class _Attention(nn.Module):
    """Multi-head attention; ``own`` projects query, key and value from one input."""

    def __init__(self, config: StackConfig, own: bool) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.heads
        self.query = None if own else nn.Linear(d, d)
        self.packed = nn.Linear(d, 3 * d if own else 2 * d)
        self.out = nn.Linear(d, d)

    def split(self, x: Tensor, parts: int, layout: Padded = PADDED) -> list[Tensor]:
        """``[B, L, parts * D]``, or packed -> ``parts`` tensors ``[B, H, L, D / H]``."""
        x = layout.lay_out(x)
        b, length, width = x.shape
        x = x.view(b, length, parts, self.heads, width // (parts * self.heads))
        return list(x.permute(2, 0, 3, 1, 4))

    def merge(self, x: Tensor, layout: Padded = PADDED) -> Tensor:
        """``[B, H, L, D / H]`` -> output projection ``[B, L, D]``, or packed."""
        b, h, length, d = x.shape
        return self.out(layout.pack(x.transpose(1, 2).reshape(b, length, h * d)))


class _FeedForward(nn.Module):
    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.ffn)
        self.outer = nn.Linear(config.ffn, config.d_model)
        self.activation = _ACTIVATIONS[config.activation]
        self.dropout = PooledDropout(config.dropout, source)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.activation is F.relu:
            return self.outer(self.dropout.relu_(x))
        return self.outer(self.dropout(self.activation(x)))


class _Block(nn.Module):
    """A residual connection with its layer norm before (pre) or after (post) the sum."""

    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.pre = config.norm == "pre"
        self.dropout = PooledDropout(config.dropout, source)

    def before(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, change: Tensor) -> Tensor:
        x = self.dropout.add(x, change)
        return x if self.pre else self.norm(x)


class _EncoderLayer(nn.Module):
    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self.attention = _Attention(config, own=True)
        self.feed_forward = _FeedForward(config, source)
        self.attention_block = _Block(config, source)
        self.feed_forward_block = _Block(config, source)

    def forward(self, x: Tensor, mask: Tensor | None, layout: Padded = PADDED) -> Tensor:
        y = self.attention_block.before(x)
        q, k, v = self.attention.split(self.attention.packed(y), 3, layout)
        y = self.attention.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), layout)
        x = self.attention_block.after(x, y)
        y = self.feed_forward(self.feed_forward_block.before(x))
        return self.feed_forward_block.after(x, y)


class DecoderLayer(nn.Module, ABC):
    """What was written so far, then cross-attention, then feed-forward.

    How a layer takes in what was written, and what it remembers of it, is its subclass's.
    """

    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self._make_own(config)
        self.cross_attention = _Attention(config, own=False)
        self.feed_forward = _FeedForward(config, source)
        self.self_block = _Block(config, source)
        self.cross_block = _Block(config, source)
        self.feed_forward_block = _Block(config, source)

    @abstractmethod
    def _make_own(self, config: StackConfig) -> None:
        """Make the modules that take in what was written."""

    @abstractmethod
    def read(self, x: Tensor, layout: Padded) -> Tensor:
        """What each position ``[B, T, D]``, or packed, takes from itself and those before it."""

    @abstractmethod
    def read_one(self, x_N1D: Tensor, layer: int, state: Any) -> Tensor:
        """The same for the newest position ``[N, 1, D]``, which ``state`` then remembers."""

    def cross_keys(self, states: Tensor, layout: Padded = PADDED) -> tuple[Tensor, Tensor]:
        k, v = self.cross_attention.split(self.cross_attention.packed(states), 2, layout)
        return k, v

    def _cross_query(self, x: Tensor, layout: Padded = PADDED) -> Tensor:
        assert self.cross_attention.query is not None
        query = self.cross_attention.query(self.cross_block.before(x))
        return self.cross_attention.split(query, 1, layout)[0]

    def _feed(self, x: Tensor, attended: Tensor, layout: Padded = PADDED) -> Tensor:
        """What follows cross-attention."""
        x = self.cross_block.after(x, self.cross_attention.merge(attended, layout))
        y = self.feed_forward(self.feed_forward_block.before(x))
        return self.feed_forward_block.after(x, y)

    def forward(
        self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Padded = PADDED
    ) -> Tensor:
        x = self.self_block.after(x, self.read(self.self_block.before(x), layout))
        q = self._cross_query(x, layout)
        return self._feed(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), layout)

    def step(self, x: Tensor, layer: int, state: SourceState) -> Tensor:
        """``x [N, 1, D]`` of the newest position."""
        x = self.self_block.after(x, self.read_one(self.self_block.before(x), layer, state))
        n, _, d = x.shape
        # The beams of one source stand side by side as query positions: its keys are kept once.
        x = x.view(n // state.beams, state.beams, d)
        return self._feed(x, state.attend_cross(layer, self._cross_query(x))).view(n, 1, d)


class _SelfAttentionLayer(DecoderLayer):
    def _make_own(self, config: StackConfig) -> None:
        self.self_attention = _Attention(config, own=True)

    def read(self, x: Tensor, layout: Padded) -> Tensor:
        q, k, v = self.self_attention.split(self.self_attention.packed(x), 3, layout)
        # Targets are padded at their ends only: the causal mask already hides all padding.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.self_attention.merge(y, layout)

    def read_one(self, x_N1D: Tensor, layer: int, state: TransformerState) -> Tensor:
        q, k, v = self.self_attention.split(self.self_attention.packed(x_N1D), 3)
        return self.self_attention.merge(state.attend_own(layer, q, k, v))


class EncoderDecoder(Seq2SeqModel):
    """A Transformer's encoder, and a decoder of layers that attend to it."""

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
            _EncoderLayer(config, source) for _ in range(config.encoder_layers)
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
        mask = _key_mask(lengths_B, width)
        for layer in self.encoder_layers:
            x = layer(x, mask, layout)
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
        mask = _key_mask(encoded.lengths_B, encoded.states_BSD.shape[1])
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


def _key_mask(lengths_B: Tensor, width: int) -> Tensor:
    """``[B, 1, 1, width]`` bool for attention: true where a key is real."""
    return length_mask(lengths_B, width)[:, None, None, :]


def sinusoidal_positions(length: int, d_model: int, positions: str = "vaswani") -> Tensor:
    """``[length, D]`` float32: sines in the first half of each row, cosines in the second.

    Sine i turns by ``10000 ** -r`` radians a position, ``r = 2 i / D`` in the paper
    (``vaswani``). In ``tensor2tensor``, and so in Marian, ``r = 2 i / (D - 2)``: the last is 1.
    """
    steps = d_model if positions == "vaswani" else max(1, d_model - 2)
    rates = torch.pow(10000.0, -torch.arange(0, d_model, 2, dtype=torch.float64) / steps)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
