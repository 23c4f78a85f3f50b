"""Dropout whose random numbers cost little on a CPU.

Drawing a fresh Bernoulli mask for every activation takes about a third of a small Transformer's
training step on a CPU. Here one pool of keep/scale factors is drawn per step (or per few steps)
and each layer multiplies with a slice of it at a random offset. Pool and offsets are functions of
``(seed, step)`` alone, so a resumed run draws the same masks without storing a generator state.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
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

    def begin_step(self, seed: int, step: int) -> None:
        """Make every following mask a function of (seed, step) and of the order of calls."""
        self._seed, self._step = seed, step
        self._offsets = np.random.default_rng((1, seed, step))

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
        if not self.training or self.rate == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate, training=True)
        return x * self._source.mask(x.numel(), self.rate).view(x.shape)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
