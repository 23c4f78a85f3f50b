"""The elementwise recurrence that SRU and SSRU share, over whole texts at once.

``f_t = sigmoid(g_t + v * c_{t-1})``, ``c_t = f_t * c_{t-1} + (1 - f_t) * u_t``, ``c_{-1} = 0``.
Without ``v`` the gates need nothing of what was read before. Every gradient follows from that of
``c_t``, which runs back through a linear recurrence of its own:

    dL/dc_t = (what the layers above say) + dc_{t+1}/dc_t * dL/dc_{t+1}

so a position costs two or three elementwise operations forwards and one backwards, and no graph is
kept over positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_recurrence(new_BTD: Tensor, gate_BTD: Tensor, feedback_D: Tensor | None = None) -> Tensor:
    """``c [B, T, D]`` of ``u``, ``g`` and ``v``, all of one dtype."""
    found: Tensor = _GatedRecurrence.apply(new_BTD, gate_BTD, feedback_D)
    return found


def gated_step(
    new_ND: Tensor, gate_ND: Tensor, memory_ND: Tensor, feedback_D: Tensor | None = None
) -> Tensor:
    """The next ``c [N, D]``."""
    if feedback_D is not None:
        gate_ND = torch.addcmul(gate_ND, memory_ND, feedback_D)
    return torch.lerp(new_ND, memory_ND, gate_ND.sigmoid())


def shifted(memory_BTD: Tensor) -> Tensor:
    """``c_{t-1}`` at every position t."""
    return torch.nn.functional.pad(memory_BTD[:, :-1], (0, 0, 1, 0))


class _GatedRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, new: Tensor, gate: Tensor, feedback: Tensor | None) -> Tensor:
        memory = torch.empty_like(new)
        keep = gate.sigmoid() if feedback is None else torch.empty_like(gate)
        past = torch.zeros_like(new[:, 0])
        for now, before, share, found in zip(
            new.unbind(1), gate.unbind(1), keep.unbind(1), memory.unbind(1), strict=True
        ):
            if feedback is not None:
                torch.sigmoid(torch.addcmul(before, past, feedback), out=share)
            torch.lerp(now, past, share, out=found)
            past = found
        ctx.save_for_backward(new, keep, memory, feedback)
        return memory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        new, keep, memory, feedback = ctx.saved_tensors
        past = shifted(memory)
        by_gate = (past - new).mul_(keep).mul_(1 - keep)
        by_past = keep if feedback is None else torch.addcmul(keep, by_gate, feedback)
        total = gradient.clone()
        rows, factors = total.unbind(1), by_past.unbind(1)
        for t in range(len(rows) - 2, -1, -1):
            rows[t].addcmul_(rows[t + 1], factors[t + 1])
        to_gate = by_gate.mul_(total)
        to_feedback = None if feedback is None else (to_gate * past).sum((0, 1))
        return total.mul_(1 - keep), to_gate, to_feedback
