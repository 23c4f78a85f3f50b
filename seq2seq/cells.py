"""Recurrent cells: they read a text from left to right and remember one row of numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seq2seq.recurrence import gated_recurrence, gated_step, shifted


class Cell(nn.Module, ABC):
    """Reads rows of ``d_in`` numbers, says rows of ``d_out``.

    Attributes:
        width: W, numbers it remembers; zeros before the first token.
    """

    width: int

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> Tensor:
        """What it says at each position of whole texts, ``[B, T, d_out]``."""

    @abstractmethod
    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        """What it says ``[N, d_out]`` having read one more token, and what it then remembers."""

    def initialise(self) -> None:
        """Draw weights anew, where the cell wants them otherwise than the model's other ones."""


class SSRU(Cell):
    """Simpler Simple Recurrent Unit (Kim et al. 2019, section 3.1).

    ``f = sigmoid(W_f x + b_f)``, ``c' = f * c + (1 - f) * W x``, and it says ``relu(c')``.
    ``packed`` holds ``W`` over ``W_f``: neither product depends on what was read before, so those
    of a whole text are one.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.width = d_out
        self.packed = nn.Linear(d_in, 2 * d_out, bias=False)
        self.forget_bias = nn.Parameter(torch.zeros(d_out))

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        new, forget = self.packed(x).chunk(2, -1)
        gate = forget + self.forget_bias
        # Under autocast the products are narrow and what is added up over a text is not.
        return new.to(gate.dtype), gate

    def forward(self, x_BTD: Tensor) -> Tensor:
        return gated_recurrence(*self._products(x_BTD)).relu()

    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        memory = gated_step(*self._products(x_ND), memory_NW)
        return memory.relu(), memory


class SRU(Cell):
    """Simple Recurrent Unit (Lei et al. 2018, "Simple Recurrent Units for Highly Parallelizable
    Recurrence", section 3).

    ``f = sigmoid(W_f x + v_f * c + b_f)``, ``c' = f * c + (1 - f) * W x``,
    ``r = sigmoid(W_r x + v_r * c + b_r)``, and it says ``r * c' + (1 - r) * x * alpha``, where
    alpha = sqrt(1 + 2 exp(b)), b the value that b_r starts from, keeps the variance of deep stacks.
    Where ``d_out`` is not ``d_in``, ``W_x x`` stands for that last x.

    ``packed`` holds ``W``, ``W_f``, ``W_r`` (and ``W_x``) one over the other, ``feedback`` is
    ``v_f, v_r`` and ``bias`` ``b_f, b_r``.

    Args:
        projection: each matrix is a product of two that meet in so many numbers, the one next to x
            shared by all; 0, or a number that would save nothing: matrices are whole.
        carried: which ``d_out`` numbers of x stand for that last x; with none of them ``W_x x``
            does. All where ``d_out`` is ``d_in``, else none, unless it is given.
    """

    HIGHWAY_BIAS = 0.0

    def __init__(
        self, d_in: int, d_out: int, projection: int = 0, carried: range | None = None
    ) -> None:
        super().__init__()
        self.width = d_out
        if carried is None:
            carried = range(d_out if d_in == d_out else 0)
        self._carried = slice(carried.start, carried.stop) if carried else None
        self._alpha = math.sqrt(1 + 2 * math.exp(self.HIGHWAY_BIAS))
        narrow = 0 < projection < min(d_in, d_out)
        self.projection = nn.Linear(d_in, projection, bias=False) if narrow else None
        parts = 3 if carried else 4
        self.packed = nn.Linear(projection if narrow else d_in, parts * d_out, bias=False)
        self.feedback = nn.Parameter(torch.zeros(2, d_out))
        self.bias = nn.Parameter(torch.zeros(2, d_out))
        self.initialise()

    def initialise(self) -> None:
        for matrix in (self.projection, self.packed):
            if matrix is not None:
                # Variance 1 / d_in, as in section 3.2 of the paper.
                bound = math.sqrt(3 / matrix.in_features)
                nn.init.uniform_(matrix.weight, -bound, bound)
        nn.init.constant_(self.bias[1], self.HIGHWAY_BIAS)

    def _products(self, x: Tensor) -> list[Tensor]:
        """``W x``, both gates before what is remembered comes in, and the highway's input."""
        narrow = x if self.projection is None else self.projection(x)
        new, forget, reset, *other = self.packed(narrow).split(self.width, -1)
        gates = forget + self.bias[0], reset + self.bias[1]
        wide = gates[0].dtype
        highway = other[0] if self._carried is None else x[..., self._carried]
        return [new.to(wide), *gates, highway.to(wide)]

    def _said(self, past: Tensor, memory: Tensor, reset: Tensor, x: Tensor) -> Tensor:
        share = torch.addcmul(reset, past, self.feedback[1]).sigmoid()
        return torch.lerp(x * self._alpha, memory, share)

    def forward(self, x_BTD: Tensor) -> Tensor:
        new, forget, reset, x = self._products(x_BTD)
        memory = gated_recurrence(new, forget, self.feedback[0])
        return self._said(shifted(memory), memory, reset, x)

    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        new, forget, reset, x = self._products(x_ND)
        memory = gated_step(new, forget, memory_NW, self.feedback[0])
        return self._said(memory_NW, memory, reset, x), memory


class _Library(Cell):
    """A cell of torch: its kernel for whole texts, its function for one step."""

    def __init__(self, kernel: nn.RNNBase) -> None:
        super().__init__()
        self.kernel = kernel

    def _weights(self) -> list[Tensor]:
        names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
        return [self.kernel.get_parameter(name) for name in names]

    def forward(self, x_BTD: Tensor) -> Tensor:
        # Not under autocast: what is added up over a text stays wide.
        with torch.autocast(x_BTD.device.type, enabled=False):
            said: Tensor = self.kernel(x_BTD.to(self._weights()[0].dtype))[0]
        return said


class GRU(_Library):
    """Gated Recurrent Unit (Cho et al. 2014), in torch's form: it remembers what it said."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(nn.GRU(d_in, d_out, batch_first=True))
        self.width = d_out

    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        said = torch.gru_cell(x_ND, memory_NW, *self._weights())
        return said, said


class LSTM(_Library):
    """Long Short-Term Memory (Hochreiter and Schmidhuber 1997; forget gate biased to 1).

    It remembers what it said and, behind that, its cells.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(nn.LSTM(d_in, d_out, batch_first=True))
        self.width = 2 * d_out
        *_, from_x, from_memory = self._weights()
        with torch.no_grad():  # gates lie in the order input, forget, cell, output
            from_x[d_out : 2 * d_out].fill_(1.0)
            from_memory[d_out : 2 * d_out].zero_()

    def step(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        said, cells = torch.lstm_cell(x_ND, list(memory_NW.chunk(2, -1)), *self._weights())
        return said, torch.cat([said, cells], -1)


CELLS: dict[str, Callable[[int, int], Cell]] = {"ssru": SSRU, "sru": SRU, "gru": GRU, "lstm": LSTM}
