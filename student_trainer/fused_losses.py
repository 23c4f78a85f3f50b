"""Loss and gradient with respect to the logits in one go, in memory that is used again.

The gradient of a cross-entropy against any distribution p is ``softmax(logits) - p``, and p is
sparse: the softmax is written once and corrected at a few places. Nothing else of the size of the
logits is read, written or kept for a backward pass. The losses are those of
:mod:`student_trainer.losses`, position by position.

Every function takes ``logits_PV`` (float32 or float64, contiguous, destroyed) and ``out_PV`` of the
same shape, writes the gradient of the *sum* of the losses to ``out_PV`` and returns the losses
``[P]``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def reference_loss_out(
    logits_PV: Tensor, targets_P: Tensor, label_smoothing: float, out_PV: Tensor
) -> Tensor:
    """:func:`~student_trainer.losses.reference_loss` with ``out_PV = softmax - q``."""
    targets_P1 = targets_P[:, None]
    total_P = _softmax(logits_PV, out_PV)
    losses_P = total_P - (1.0 - label_smoothing) * logits_PV.gather(1, targets_P1).squeeze(1)
    if label_smoothing:
        losses_P -= label_smoothing * logits_PV.mean(1)
        out_PV.sub_(label_smoothing / logits_PV.shape[1])
    sure = total_P.new_full((1, 1), label_smoothing - 1.0)
    out_PV.scatter_add_(1, targets_P1, sure.expand_as(targets_P1))
    return losses_P


def full_loss_top_k_out(
    logits_PV: Tensor,
    ids_PK: Tensor,
    log_probs_PK: Tensor,
    tail_log_mass_P: Tensor,
    tail: Literal["bucket", "renormalised"],
    out_PV: Tensor,
) -> Tensor:
    """:func:`~student_trainer.losses.full_loss_top_k` with its gradient in ``out_PV``.

    With the bucket, ``out_PV[k] = q_k - p_k`` at the candidates and ``q_v - p_tail w_v`` elsewhere,
    w being the student's own distribution over what is left.
    """
    log_probs_PK = log_probs_PK.to(logits_PV.dtype)
    tail_log_mass_P = tail_log_mass_P.to(logits_PV.dtype)
    chosen_PK = logits_PV.gather(1, ids_PK)
    if tail == "renormalised" or ids_PK.shape[1] == logits_PV.shape[1]:
        teacher_PK = log_probs_PK.softmax(1)
        total_P = _softmax(logits_PV, out_PV)
        out_PV.scatter_add_(1, ids_PK, -teacher_PK)
        return total_P - (teacher_PK * chosen_PK).sum(1)
    teacher = torch.cat([log_probs_PK, tail_log_mass_P[:, None]], dim=1).softmax(1)
    teacher_PK, tail_P = teacher[:, :-1], teacher[:, -1]
    logits_PV.scatter_(1, ids_PK, -torch.inf)
    rest_P = _softmax(logits_PV, out_PV)
    total_P = torch.logaddexp(rest_P, chosen_PK.logsumexp(1))
    log_rest_P = rest_P - total_P
    out_PV.mul_((log_rest_P.exp() - tail_P)[:, None])
    student_PK = chosen_PK - total_P[:, None]
    out_PV.scatter_(1, ids_PK, student_PK.exp() - teacher_PK)
    return -(teacher_PK * student_PK).sum(1) - tail_P * log_rest_P


def _softmax(logits_PV: Tensor, out_PV: Tensor) -> Tensor:
    """Write the softmax to ``out_PV``; log-sum-exp of each row, from its largest entry."""
    torch.softmax(logits_PV, 1, out=out_PV)
    return logits_PV.amax(1) - out_PV.amax(1).log()
