"""Key and value caches of attention in a decoder, and attention of one new position to them.

Keys lie transposed, ``[.., D / H, length]``: one query against them is then a plain product, which
a CPU does in about half the time of a fused kernel made for many queries.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seq2seq.batch import length_mask
from seq2seq.model import DecoderState

# Columns by which a cache grows: what is copied when hypotheses move is never much more than what
# is filled.
CAPACITY_STEP = 16


@dataclass
class Memory:
    """What may be attended to: keys ``[R, H, D / H, L]``, values ``[R, H, L, D / H]``."""

    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, k: Tensor, v: Tensor) -> Memory:
        """From projections ``[R, H, L, D / H]``."""
        return cls(k.transpose(2, 3).contiguous(), v.contiguous())

    @property
    def length(self) -> int:
        """L."""
        return self.keys.shape[3]

    def attend(self, q: Tensor, mask: Tensor | None, length: int | None = None) -> Tensor:
        """Attention of ``q [R, H, Q, D / H]`` to the first ``length`` positions.

        Args:
            mask: ``[R, 1, 1, length]``, 0 or -inf.
        """
        keys, values = self.keys[..., :length], self.values[:, :, :length]
        scores = torch.matmul(q * q.shape[-1] ** -0.5, keys)
        if mask is not None:
            scores += mask
        # In half precision the softmax is made in float32: it would lose too much.
        wide = torch.promote_types(scores.dtype, torch.float32)
        return torch.matmul(scores.softmax(-1, dtype=wide).to(values.dtype), values)

    def select(self, index: Tensor, length: int | None = None) -> Memory:
        """Rows ``index``, cut to ``length``."""
        return Memory(
            self.keys[..., :length].index_select(0, index),
            self.values[:, :, :length].index_select(0, index),
        )

    def widened(self, columns: int) -> Memory:
        """Room for more positions, all zeros."""
        pad = torch.nn.functional.pad
        return Memory(pad(self.keys, (0, columns)), pad(self.values, (0, 0, 0, columns)))

    def joined(self, other: Memory) -> Memory:
        """Both one under the other; the shorter is padded with zeros."""
        length = max(self.length, other.length)
        rows, heads, width, _ = self.keys.shape
        rows += len(other.keys)
        # Zeros, not garbage: what is masked must still be a number.
        found = Memory(
            self.keys.new_zeros(rows, heads, width, length),
            self.keys.new_zeros(rows, heads, length, width),
        )
        begin = 0
        for part in (self, other):
            end = begin + len(part.keys)
            found.keys[begin:end, :, :, : part.length] = part.keys
            found.values[begin:end, :, : part.length] = part.values
            begin = end
        return found


class SourceState(DecoderState):
    """What B sources look like to cross-attention, and how far each hypothesis has read.

    What the layers remember of the targets themselves is a subclass's.

    Attributes:
        cross: per layer, the encoder's states as each layer sees them, ``R = B``.
    """

    def __init__(self, cross: list[Memory], lengths_B: Tensor, beams: int = 1) -> None:
        self.beams = beams
        self._see(cross, lengths_B)
        self.position = 0
        self._positions_N: Tensor | None = None

    def begin_step(self, table: Tensor) -> Tensor:
        """Rows of a position table ``[length, D]`` for the tokens about to be read."""
        # A finished hypothesis may run past the table before it leaves.
        if self._positions_N is None:
            return table[min(self.position, len(table) - 1)]
        return table[self._positions_N.clamp(max=len(table) - 1)][:, None, :]

    def end_step(self) -> None:
        """All have read one more token."""
        self.position += 1
        if self._positions_N is not None:
            self._positions_N = self._positions_N + 1

    def attend_cross(self, layer: int, q: Tensor) -> Tensor:
        """Attend to the sources; ``q [B, H, beams, D / H]``."""
        return self.cross[layer].attend(q, self.cross_mask)

    def extend(self, other: DecoderState) -> None:
        assert isinstance(other, SourceState) and other.beams == self.beams
        positions = torch.cat([self._all_positions(), other._all_positions()])
        cross = [a.joined(b) for a, b in zip(self.cross, other.cross, strict=True)]
        self._see(cross, torch.cat([self._lengths_B, other._lengths_B]))
        self._join_own(other)
        self._set(positions)

    def keep_sources(self, index_B: Tensor) -> None:
        positions = self._all_positions()
        lengths_B = self._lengths_B.index_select(0, index_B)
        width = int(lengths_B.max())
        self._see([memory.select(index_B, width) for memory in self.cross], lengths_B)
        beams = torch.arange(self.beams, device=index_B.device)
        index_N = (index_B[:, None] * self.beams + beams).flatten()
        positions = positions.index_select(0, index_N)
        self._keep_own(index_N, int(positions.max()))
        self._set(positions)

    def reorder(self, index_N: Tensor) -> None:
        self._reorder_own(index_N)
        if self._positions_N is not None:
            self._set(self._positions_N.index_select(0, index_N))

    @abstractmethod
    def _join_own(self, other: Any) -> None:
        """Take in what another state of this class remembers, behind one's own."""

    @abstractmethod
    def _keep_own(self, index_N: Tensor, longest: int) -> None:
        """Keep only these hypotheses, none of which has read more than ``longest`` tokens."""

    @abstractmethod
    def _reorder_own(self, index_N: Tensor) -> None:
        """See :meth:`reorder`."""

    def _all_positions(self) -> Tensor:
        if self._positions_N is not None:
            return self._positions_N
        count = len(self._lengths_B) * self.beams
        return torch.full((count,), self.position, device=self._lengths_B.device)

    def _set(self, positions_N: Tensor) -> None:
        low, high = int(positions_N.min()), int(positions_N.max())
        self.position = high
        self._positions_N = None if low == high else positions_N

    def _see(self, cross: list[Memory], lengths_B: Tensor) -> None:
        """These sources, from now on."""
        self.cross, self._lengths_B = cross, lengths_B
        self.cross_mask = _additive(length_mask(lengths_B, cross[0].length), cross[0].keys)


class TransformerState(SourceState):
    """With the keys and values of self-attention.

    Attributes:
        own: per layer, what has been read, ``R = N``.
    """

    def __init__(self, cross: list[Memory], lengths_B: Tensor, beams: int = 1) -> None:
        super().__init__(cross, lengths_B, beams)
        keys = cross[0].keys
        rows, heads, width = len(keys) * beams, keys.shape[1], keys.shape[2]
        self.own = [
            Memory(
                keys.new_zeros(rows, heads, width, CAPACITY_STEP),
                keys.new_zeros(rows, heads, CAPACITY_STEP, width),
            )
            for _ in cross
        ]
        self.own_mask: Tensor | None = None

    def begin_step(self, table: Tensor) -> Tensor:
        if self.position == self.own[0].length:
            self.own = [memory.widened(CAPACITY_STEP) for memory in self.own]
        self.own_mask = None
        if self._positions_N is not None:
            read = torch.arange(self.position + 1, device=table.device)
            self.own_mask = _additive(read <= self._positions_N[:, None], table)
        return super().begin_step(table)

    def attend_own(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the newest keys and values and attend to all so far; all ``[N, H, 1, D / H]``."""
        memory, now = self.own[layer], self.position
        if self._positions_N is None:
            memory.keys[:, :, :, now] = k.squeeze(2)
            memory.values[:, :, now] = v.squeeze(2)
        else:
            rows = torch.arange(len(k), device=k.device)
            memory.keys[rows, :, :, self._positions_N] = k.squeeze(2)
            memory.values[rows, :, self._positions_N] = v.squeeze(2)
        return memory.attend(q, self.own_mask, now + 1)

    def _join_own(self, other: TransformerState) -> None:
        self.own = [a.joined(b) for a, b in zip(self.own, other.own, strict=True)]

    def _keep_own(self, index_N: Tensor, longest: int) -> None:
        steps = -(-max(1, longest) // CAPACITY_STEP)
        self.own = [memory.select(index_N, steps * CAPACITY_STEP) for memory in self.own]

    def _reorder_own(self, index_N: Tensor) -> None:
        if index_N.device.type != "cpu":
            self.own = [memory.select(index_N) for memory in self.own]
            return
        moved = (index_N != torch.arange(len(index_N))).nonzero().squeeze(1)
        source = index_N[moved]
        for memory in self.own:
            memory.keys[moved] = memory.keys[source]
            memory.values[moved] = memory.values[source]


def _additive(allowed: Tensor, like: Tensor) -> Tensor | None:
    """``[R, 1, 1, L]``: 0 where allowed ``[R, L]``, else -inf; None where all is on a CPU."""
    if allowed.device.type == "cpu" and bool(allowed.all()):
        return None
    mask = like.new_zeros(allowed.shape).masked_fill_(~allowed, -torch.inf)
    return mask[:, None, None, :]
