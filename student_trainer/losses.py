"""Losses between student logits and teacher distributions, one value per packed position.

Pure functions of tensors. ``P`` packed positions, ``V`` vocabulary, ``K`` candidates; pi* is the
teacher, pi the student (docs/algorithm.md). The caller sums and divides by the number of loss
positions in the whole batch, so shards and data-parallel learners agree.
"""

from __future__ import annotations

from typing import Literal

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
        _wide(logits_PV), targets_P, reduction="none", label_smoothing=label_smoothing
    )


def full_loss(logits_PV: Tensor, teacher_log_probs_PV: Tensor) -> Tensor:
    """L_full exactly: ``-sum_v pi*(v) log pi(v)``, float32 ``[P]``."""
    return -(teacher_log_probs_PV.exp() * _wide(logits_PV).log_softmax(1)).sum(1)


def full_loss_top_k(
    logits_PV: Tensor,
    ids_PK: Tensor,
    log_probs_PK: Tensor,
    tail_log_mass_P: Tensor,
    tail: Literal["bucket", "renormalised"],
) -> Tensor:
    """L_full over the teacher's K best candidates, float32 ``[P]``.

    ``bucket``: the rest of the vocabulary is one more class on both sides,
    ``-sum_k p_k log q_k - p_tail log(1 - sum_k q_k)``; the student pays for mass it puts outside
    the candidates. ``renormalised``: ``-sum_k (p_k / sum_j p_j) log q_k`` (the published code).

    Args:
        logits_PV: student logits.
        ids_PK: int64 candidates of the teacher, distinct in a row.
        log_probs_PK: the teacher's log-probabilities of them.
        tail_log_mass_P: log of the teacher's mass outside them; -inf where there is none.
    """
    logits_PV = _wide(logits_PV)
    log_probs_PK = log_probs_PK.to(logits_PV.dtype)
    tail_log_mass_P = tail_log_mass_P.to(logits_PV.dtype)
    total_P = logits_PV.logsumexp(1)
    chosen_PK = logits_PV.gather(1, ids_PK)
    student_PK = chosen_PK - total_P[:, None]
    if tail == "renormalised":
        return -(log_probs_PK.softmax(1) * student_PK).sum(1)
    # fp16 rounding on the wire: make candidates and tail sum to one again.
    teacher = torch.cat([log_probs_PK, tail_log_mass_P[:, None]], dim=1).softmax(1)
    rest_P = logits_PV.scatter(1, ids_PK, -torch.inf).logsumexp(1) - total_P
    # Where the teacher's tail is empty, the student's does not matter (0 * -inf otherwise).
    rest_P = torch.where(teacher[:, -1] > 0, rest_P, torch.zeros_like(rest_P))
    return -(teacher[:, :-1] * student_PK).sum(1) - teacher[:, -1] * rest_P


def policy_gradient_loss(
    logits_PV: Tensor, targets_P: Tensor, teacher_log_probs_P: Tensor
) -> Tensor:
    """On-policy distillation: slope ``-A grad log pi(y_t)``, ``A = log pi*(y_t) - log pi(y_t)``.

    Over tokens that the student sampled its mean slope is that of the reverse KL. The value is
    ``-A``, float32 ``[P]``, whose mean is the reverse KL.
    """
    log_q_P = -F.cross_entropy(_wide(logits_PV), targets_P, reduction="none")
    advantages_P = advantages(log_q_P.detach(), teacher_log_probs_P)
    surrogate_P = -advantages_P * log_q_P
    return -advantages_P + surrogate_P - surrogate_P.detach()


def advantages(log_q_P: Tensor, log_p_P: Tensor) -> Tensor:
    """``log p - log q`` of tokens, log p no lower than :data:`LOWEST_LOG_P`."""
    return log_p_P.to(log_q_P.dtype).clamp_min(LOWEST_LOG_P) - log_q_P


def _wide(logits: Tensor) -> Tensor:
    """float32, or float64 where the model computes in it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
