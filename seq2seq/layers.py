"""Layers with residual connections, and the shape of a stack of them.

The query, key and value projections of self-attention are one matrix, as are key and value of
cross-attention; an export splits them by rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.batch import length_mask
from seq2seq.dropout import DropoutSource, PooledDropout
from seq2seq.encoder_decoder import ShapeConfig
from seq2seq.packing import PADDED, Padded
from seq2seq.transformer_state import SourceState


class StackConfig(ShapeConfig):
    """Shape of layers with residual connections, all of width ``d_model``."""

    heads: int = Field(4, ge=1)
    ffn: int = Field(1024, ge=1)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu", "swish"] = "relu"
    positions: Literal["vaswani", "tensor2tensor"] = "vaswani"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(
                f"d_model {self.d_model} must be even and a multiple of heads {self.heads}"
            )
        return self


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swish": F.silu,
}


class Attention(nn.Module):
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


class FeedForward(nn.Module):
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


class Block(nn.Module):
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

    def apply_to(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """``x`` with what ``change`` makes of it."""
        return self.after(x, change(self.before(x)))


class EncoderLayer(nn.Module):
    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self.attention = Attention(config, own=True)
        self.feed_forward = FeedForward(config, source)
        self.attention_block = Block(config, source)
        self.feed_forward_block = Block(config, source)

    def forward(self, x: Tensor, mask: Tensor | None, layout: Padded = PADDED) -> Tensor:
        """``mask``: see :func:`key_mask`."""
        y = self.attention_block.before(x)
        q, k, v = self.attention.split(self.attention.packed(y), 3, layout)
        y = self.attention.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), layout)
        x = self.attention_block.after(x, y)
        return self.feed_forward_block.apply_to(x, self.feed_forward)


class DecoderLayer(nn.Module, ABC):
    """What was written so far, then cross-attention, then feed-forward (none where ``ffn`` is 0).

    How a layer takes in what was written, and what it remembers of it, is its subclass's.
    """

    def __init__(self, config: StackConfig, source: DropoutSource) -> None:
        super().__init__()
        self._make_own(config)
        self.cross_attention = Attention(config, own=False)
        self.feed_forward = FeedForward(config, source) if config.ffn else None
        self.self_block = Block(config, source)
        self.cross_block = Block(config, source)
        self.feed_forward_block = Block(config, source) if config.ffn else None

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
        if self.feed_forward is None or self.feed_forward_block is None:
            return x
        return self.feed_forward_block.apply_to(x, self.feed_forward)

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


def key_mask(lengths_B: Tensor, width: int) -> Tensor:
    """``[B, 1, 1, width]`` bool for attention: true where a key is real."""
    return length_mask(lengths_B, width)[:, None, None, :]
