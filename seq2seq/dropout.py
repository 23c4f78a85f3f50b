"""Dropout whose random numbers cost little on a CPU.

Drawing a fresh Bernoulli mask for every activation takes about a third of a small Transformer's
training step on a CPU. Here one pool of keep/scale factors is drawn per step (or per few steps)
and each layer multiplies with a slice of it at a random offset. Pool and offsets are functions of
``(seed, step)`` alone, so a resumed run draws the same masks without storing a generator state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

POOL_SIZE = 1 << 22
STEPS_PER_POOL = 4


class DropoutSource:
    """The pool shared by all dropout layers of one model."""

    def __init__(self, pool_size: int = POOL_SIZE, steps_per_pool: int = STEPS_PER_POOL) -> None:
        self._pool_size = pool_size
        self._steps_per_pool = steps_per_pool
        self._pools: dict[float, tuple[tuple[int, int], Tensor]] = {}
        self._seed, self._step = 0, 0
        self._offsets = np.random.default_rng((0, 0))

    def begin_step(self, seed: int, step: int, part: int = 0) -> None:
        """Make every following mask a function of (seed, step, part) and of the order of calls.

        Args:
            part: of the batch, where several processes share it: masks of their own for each.
        """
        self._seed, self._step = seed, step
        self._offsets = np.random.default_rng((1, seed, step, part) if part else (1, seed, step))

    def mask(self, count: int, rate: float) -> Tensor:
        """``[count]`` float32: 0 with probability ``rate``, else ``1 / (1 - rate)``."""
        pool = self._pool(rate)
        if count > self._pool_size // 2:
            repeats = -(-count // (self._pool_size // 2))
            return torch.cat([self._slice(pool, self._pool_size // 2) for _ in range(repeats)])[
                :count
            ]
        return self._slice(pool, count)

    def _slice(self, pool: Tensor, count: int) -> Tensor:
        offset = int(self._offsets.integers(0, self._pool_size - count + 1))
        return pool[offset : offset + count]

    def _pool(self, rate: float) -> Tensor:
        key = (self._seed, self._step // self._steps_per_pool)
        held = self._pools.get(rate)
        if held is None or held[0] != key:
            generator = torch.Generator().manual_seed((key[0] * 1_000_003 + key[1]) & (2**63 - 1))
            pool = torch.empty(self._pool_size).bernoulli_(1.0 - rate, generator=generator)
            held = (key, pool.mul_(1.0 / (1.0 - rate)))
            self._pools[rate] = held
        return held[1]


class PooledDropout(nn.Module):
    """Dropout from a :class:`DropoutSource` on CPU, the library's own elsewhere."""

    def __init__(self, rate: float, source: DropoutSource) -> None:
        super().__init__()
        self.rate = rate
        self._source = source

    def forward(self, x: Tensor) -> Tensor:
        if self._is_pooled(x):
            return x * self._mask(x)
        return F.dropout(x, self.rate, self.training)

    def add(self, x: Tensor, change: Tensor) -> Tensor:
        """``x + dropout(change)``, on a CPU in one pass over memory."""
        if self._is_pooled(change):
            return torch.addcmul(x, change, self._mask(change))
        return x + F.dropout(change, self.rate, self.training)

    def relu_(self, x: Tensor) -> Tensor:
        """``dropout(relu(x))``; overwrites ``x``, on a CPU remembers neither ``x`` nor the mask."""
        if self._is_pooled(x):
            found: Tensor = _DroppedRelu.apply(x, self._mask(x), 1 / (1 - self.rate))
            return found
        return F.dropout(x.relu_(), self.rate, self.training)

    def _is_pooled(self, x: Tensor) -> bool:
        return self.training and self.rate > 0.0 and x.device.type == "cpu"

    def _mask(self, x: Tensor) -> Tensor:
        return self._source.mask(x.numel(), self.rate).view(x.shape)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class _DroppedRelu(torch.autograd.Function):
    """A result above zero says all that the gradient needs: it was positive and it was kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        x.relu_().mul_(mask)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None, None
