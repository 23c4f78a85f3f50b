"""Losses between student logits and teacher distributions, one value per packed position.

Pure functions of tensors. ``P`` packed positions, ``V`` vocabulary, ``K`` candidates; pi* is the
teacher, pi the student (docs/algorithm.md). The caller sums and divides by the number of loss
positions in the whole batch, so shards and data-parallel learners agree.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# A token that the teacher rules out costs so many nats, not infinity.
LOWEST_LOG_P = -100.0


def reference_loss(logits_PV: Tensor, targets_P: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-log pi(y_t)``, float32 ``[P]``; with smoothing eps the target is
    ``(1 - eps) onehot(y_t) + eps / V``.

    Also L_opt where ``targets_P`` are the teacher's arg-max ids: ``-log pi(v* | y_<t, x)``.
    """
    return F.cross_entropy(
        wide(logits_PV), targets_P, reduction="none", label_smoothing=label_smoothing
    )


def policy_gradient_loss(
    logits_PV: Tensor, targets_P: Tensor, teacher_log_probs_P: Tensor
) -> Tensor:
    """On-policy distillation: slope ``-A grad log pi(y_t)``, ``A = log pi*(y_t) - log pi(y_t)``.

    Over tokens that the student sampled its mean slope is that of the reverse KL. The value is
    ``-A``, float32 ``[P]``, whose mean is the reverse KL.
    """
    log_q_P = -F.cross_entropy(wide(logits_PV), targets_P, reduction="none")
    advantages_P = advantages(log_q_P.detach(), teacher_log_probs_P)
    surrogate_P = -advantages_P * log_q_P
    return -advantages_P + surrogate_P - surrogate_P.detach()


def advantages(log_q_P: Tensor, log_p_P: Tensor) -> Tensor:
    """``log p - log q`` of tokens, log p no lower than :data:`LOWEST_LOG_P`."""
    return log_p_P.to(log_q_P.dtype).clamp_min(LOWEST_LOG_P) - log_q_P


def wide(logits: Tensor) -> Tensor:
    """float32, or float64 where the model computes in it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
