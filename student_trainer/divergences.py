"""Divergences between teacher p and student q, one value per position.

Both are log-probabilities over the same C classes, ``[P, C]``, that sum to one: the vocabulary, or
some candidates with the rest of it as one more class (:func:`teacher_classes`). Letters as in
:mod:`student_trainer.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from student_trainer.config import LossConfig
from student_trainer.losses import LOWEST_LOG_P, wide
from student_trainer.methods import effective_divergence

PointLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``-sum p log q``: L_full, the forward KL without the teacher's entropy."""
    return -_expected(log_p, log_q)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum p log(p / q)``."""
    return _expected(log_p, log_p.clamp_min(LOWEST_LOG_P) - log_q)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum q log(q / p)``, with log p no lower than ``LOWEST_LOG_P``."""
    return _expected(log_q, log_q - log_p.clamp_min(LOWEST_LOG_P))


def jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Generalised JSD (GKD): ``b KL(p, m) + (1 - b) KL(q, m)``, ``m = b p + (1 - b) q``.

    The formula is 0 at both ends; by convention 0 means the forward KL and 1 the reverse KL, which
    are its limits once divided by b and by 1 - b.
    """
    if beta == 0.0:
        return forward_kl(log_p, log_q)
    if beta == 1.0:
        return reverse_kl(log_p, log_q)
    log_m = _mixture(log_p, log_q, beta)
    to_p = _expected(log_p, log_p.clamp_min(LOWEST_LOG_P) - log_m)
    return beta * to_p + (1 - beta) * _expected(log_q, log_q - log_m)


def skew_kl(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """``KL(p, alpha p + (1 - alpha) q)`` (DistiLLM); the forward KL at 0, nothing at 1."""
    if alpha == 0.0:
        return forward_kl(log_p, log_q)
    if alpha == 1.0:
        return 0.0 * log_q.sum(1)
    return _expected(log_p, log_p.clamp_min(LOWEST_LOG_P) - _mixture(log_p, log_q, alpha))


def reverse_skew_kl(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """``KL(q, (1 - alpha) p + alpha q)`` (DistiLLM); the reverse KL at 0, nothing at 1."""
    if alpha == 0.0:
        return reverse_kl(log_p, log_q)
    if alpha == 1.0:
        return 0.0 * log_q.sum(1)
    return _expected(log_q, log_q - _mixture(log_p, log_q, 1 - alpha))


def tvd(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Total variation distance, ``1/2 sum |p - q|``."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(1)


def point_loss(loss: LossConfig, *, entropy: bool) -> PointLoss:
    """The divergence of a configuration.

    Args:
        entropy: whether the forward KL includes the teacher's entropy; L_full does not.
    """
    kind = effective_divergence(loss.divergence, loss.jsd_beta, loss.skew_alpha)
    if kind == "forward-kl" and not entropy:
        return cross_entropy
    found: dict[str, PointLoss] = {
        "forward-kl": forward_kl,
        "reverse-kl": reverse_kl,
        "jsd": partial(jsd, beta=loss.jsd_beta),
        "skew-kl": partial(skew_kl, alpha=loss.skew_alpha),
        "reverse-skew-kl": partial(reverse_skew_kl, alpha=loss.skew_alpha),
        "tvd": tvd,
    }
    return found[kind]


def teacher_classes(
    ids_PK: Tensor,
    log_probs_PK: Tensor,
    tail_log_mass_P: Tensor,
    tail: Literal["bucket", "renormalised"],
    size: int,
) -> tuple[Tensor | None, Tensor]:
    """A top-k list as classes: (ids of all classes but the last, log p).

    ``bucket``: the rest of the vocabulary is the last class. ``renormalised``: the teacher is taken
    to have nothing there. Where the candidates are the whole vocabulary there is no rest: ids are
    None and classes are in the vocabulary's order.

    Args:
        ids_PK: int64, distinct in a row.
        size: of the vocabulary.
    """
    if ids_PK.shape[1] == size:
        ordered_PV = torch.empty_like(log_probs_PK).scatter_(1, ids_PK, log_probs_PK)
        return None, ordered_PV.log_softmax(1)
    if tail == "renormalised":
        return ids_PK, F.pad(log_probs_PK.log_softmax(1), (0, 1), value=-math.inf)
    # fp16 rounding on the wire: make candidates and tail sum to one again.
    return ids_PK, torch.cat([log_probs_PK, tail_log_mass_P[:, None]], dim=1).log_softmax(1)


def student_classes(logits_PV: Tensor, ids_PK: Tensor | None) -> Tensor:
    """log q over the classes of :func:`teacher_classes`."""
    log_q_PV = wide(logits_PV).log_softmax(1)
    if ids_PK is None:
        return log_q_PV
    rest_P1 = log_q_PV.scatter(1, ids_PK, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_q_PV.gather(1, ids_PK), rest_P1], dim=1)


def _expected(log_weight: Tensor, value: Tensor) -> Tensor:
    """``sum w value``; where w is 0 the value, which may be infinite, does not matter."""
    weight = log_weight.exp()
    return (weight * torch.where(weight > 0, value, torch.zeros_like(value))).sum(1)


def _mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """``log(share p + (1 - share) q)``."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log(1 - share))
