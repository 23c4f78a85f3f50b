"""Loss and gradient with respect to the logits in one go, in memory that is used again.

The gradient of any loss of the student's log-probabilities is a softmax with corrections at a few
places: the softmax is written once and corrected there. Nothing else of the size of the logits is
read, written or kept for a backward pass. The losses are those of :mod:`student_trainer.losses` and
:mod:`student_trainer.divergences`, position by position.

Every function takes ``logits_PV`` (float32 or float64, contiguous, destroyed) and ``out_PV`` of the
same shape, writes the gradient of the *sum* of the losses to ``out_PV`` and returns the losses
``[P]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from student_trainer.divergences import PointLoss, cross_entropy
from student_trainer.losses import advantages


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


def policy_gradient_out(
    logits_PV: Tensor, targets_P: Tensor, teacher_log_probs_P: Tensor, out_PV: Tensor
) -> Tensor:
    """:func:`~student_trainer.losses.policy_gradient_loss`, ``out_PV = A (softmax - onehot)``."""
    targets_P1 = targets_P[:, None]
    total_P = _softmax(logits_PV, out_PV)
    student_P = logits_PV.gather(1, targets_P1).squeeze(1) - total_P
    advantages_P = advantages(student_P, teacher_log_probs_P)
    out_PV.scatter_add_(1, targets_P1, out_PV.new_full((1, 1), -1.0).expand_as(targets_P1))
    out_PV.mul_(advantages_P[:, None])
    return -advantages_P


def class_loss_out(
    logits_PV: Tensor,
    ids_PK: Tensor | None,
    log_p_PC: Tensor,
    loss: PointLoss,
    out_PV: Tensor,
) -> Tensor:
    """Any loss over the classes of :func:`~student_trainer.divergences.teacher_classes`.

    With g the slope in ``log q`` of each class and G their sum, ``out_PV[v] = g_v - q_v G`` at the
    candidates and ``(g_rest - q_rest G) w_v`` elsewhere, w being the student's own distribution
    over what is left. g is a tensor of the classes alone, so any loss costs what L_full does.
    """
    if ids_PK is None:
        total_P = _softmax(logits_PV, out_PV)
        losses_P, slope_PV = _slope(loss, log_p_PC, logits_PV.sub_(total_P[:, None]))
        out_PV.mul_(-slope_PV.sum(1, keepdim=True)).add_(slope_PV)
        return losses_P
    chosen_PK = logits_PV.gather(1, ids_PK)
    logits_PV.scatter_(1, ids_PK, -torch.inf)
    rest_P = _softmax(logits_PV, out_PV)
    total_P = torch.logaddexp(rest_P, chosen_PK.logsumexp(1))
    log_q_PC = torch.cat([chosen_PK, rest_P[:, None]], dim=1) - total_P[:, None]
    losses_P, slope_PC = _slope(loss, log_p_PC, log_q_PC)
    slope_PC = slope_PC - log_q_PC.exp() * slope_PC.sum(1, keepdim=True)
    out_PV.mul_(slope_PC[:, -1:])
    out_PV.scatter_(1, ids_PK, slope_PC[:, :-1])
    return losses_P


def _slope(loss: PointLoss, log_p_PC: Tensor, log_q_PC: Tensor) -> tuple[Tensor, Tensor]:
    """Losses, and their slope in log q where each class is a variable of its own."""
    if loss is cross_entropy:
        return loss(log_p_PC, log_q_PC), -log_p_PC.exp()
    with torch.enable_grad():
        variable = log_q_PC.detach().requires_grad_()
        losses_P = loss(log_p_PC, variable)
        (slope_PC,) = torch.autograd.grad(losses_P.sum(), variable)
    return losses_P.detach(), slope_PC


def _softmax(logits_PV: Tensor, out_PV: Tensor) -> Tensor:
    """Write the softmax to ``out_PV``; log-sum-exp of each row, from its largest entry."""
    torch.softmax(logits_PV, 1, out=out_PV)
    return logits_PV.amax(1) - out_PV.amax(1).log()
