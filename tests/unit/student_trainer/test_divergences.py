"""Each divergence against its formula in float64, at its ends, at zero and at extremes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from student_trainer.config import LossConfig
from student_trainer.divergences import (
    PointLoss,
    jsd,
    point_loss,
    reverse_skew_kl,
    skew_kl,
    student_classes,
    teacher_classes,
)
from student_trainer.fused_losses import class_loss_out, policy_gradient_out
from student_trainer.losses import policy_gradient_loss
from student_trainer.methods import effective_divergence
from tests import oracles

P, V = 5, 7
KINDS: list[dict[str, Any]] = [
    {"divergence": "forward-kl"},
    {"divergence": "reverse-kl"},
    *({"divergence": "jsd", "jsd_beta": b} for b in (0.0, 0.1, 0.5, 0.9, 1.0)),
    *({"divergence": "skew-kl", "skew_alpha": a} for a in (0.0, 0.1, 0.9)),
    *({"divergence": "reverse-skew-kl", "skew_alpha": a} for a in (0.0, 0.1, 0.9)),
    {"divergence": "tvd"},
]
NAMES = ["-".join(str(v) for v in kind.values()) for kind in KINDS]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def logits(seed: int, positions: int = P, size: int = V) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(positions, size, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = logits(1), logits(2).log_softmax(1)


def loss_of(kind: dict[str, Any]) -> PointLoss:
    return point_loss(LossConfig(**kind), entropy=True)


def expected(
    kind: dict[str, Any], p: Tensor, student: Tensor, ids: list[list[int]] | None = None
) -> list[float]:
    settings = LossConfig(**kind)
    found = []
    for row, (log_p, log_q) in enumerate(zip(p.tolist(), student.tolist(), strict=True)):
        of = ids[row] if ids is not None else None
        found.append(
            oracles.divergence(
                settings.divergence,
                oracles.classes([math.exp(x) for x in log_p], of),
                oracles.classes([math.exp(x) for x in oracles.log_softmax(log_q)], of),
                settings.jsd_beta,
                settings.skew_alpha,
            )
        )
    return found


def fused(
    loss: PointLoss, student: Tensor, ids: Tensor | None, log_p: Tensor
) -> tuple[Tensor, Tensor]:
    out = torch.full_like(student, math.nan)
    return class_loss_out(student.clone(), ids, log_p, loss, out), out


def slope(loss: PointLoss, student: Tensor, ids: Tensor | None, log_p: Tensor) -> Tensor:
    x = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(log_p, student_classes(x, ids)).sum(), x)
    return found


@each_kind
def test_over_the_whole_vocabulary(kind: dict[str, Any]) -> None:
    loss = loss_of(kind)
    found = loss(TEACHER, STUDENT.log_softmax(1))
    assert found.tolist() == pytest.approx(expected(kind, TEACHER, STUDENT))
    assert (found > 0).all()
    losses, gradient = fused(loss, STUDENT, None, TEACHER)
    torch.testing.assert_close(losses, found)
    torch.testing.assert_close(gradient, slope(loss, STUDENT, None, TEACHER))
    if kind["divergence"] != "tvd":  # which has a kink
        x = STUDENT.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda y: loss(TEACHER, y.log_softmax(1)), x)


@each_kind
@pytest.mark.parametrize("k", [1, 3, V - 1])
def test_over_candidates_and_the_rest_as_a_bucket(kind: dict[str, Any], k: int) -> None:
    loss = loss_of(kind)
    best = [oracles.best_candidates(row, k) for row in TEACHER.tolist()]
    labels = torch.tensor(best), *top(k)
    ids, log_p = teacher_classes(*labels, "bucket", V)
    found = loss(log_p, student_classes(STUDENT, ids))
    assert found.tolist() == pytest.approx(expected(kind, TEACHER, STUDENT, best))
    losses, gradient = fused(loss, STUDENT, ids, log_p)
    torch.testing.assert_close(losses, found)
    torch.testing.assert_close(gradient, slope(loss, STUDENT, ids, log_p))
    # Joining classes never makes two distributions easier to tell apart.
    whole = loss(TEACHER, STUDENT.log_softmax(1))
    assert (found <= whole + 1e-12).all()


def top(k: int) -> tuple[Tensor, Tensor]:
    """(log-probs, tail log-mass) of the teacher's k best."""
    values, ids = TEACHER.topk(k, dim=1)
    chosen = torch.zeros_like(TEACHER, dtype=torch.bool).scatter(1, ids, True)
    return values, TEACHER.masked_fill(chosen, -math.inf).logsumexp(1)


# The reverse KL, and those that it is the end of, are infinite from a teacher without a tail; they
# are compared on the student's candidates, which a configuration lets no renormalising near.
FINITE = [
    kind
    for kind in KINDS
    if effective_divergence(**{"jsd_beta": 0.5, "skew_alpha": 0.1} | kind) != "reverse-kl"
]


def test_over_the_students_candidates_renormalising_hides_what_the_teacher_rules_out() -> None:
    """Why a configuration refuses it: a student that is sure and wrong would have no loss."""
    log_p = torch.tensor([[0.0, *[-14.0] * 3]], dtype=torch.float64).log_softmax(1)
    student = torch.tensor([[-20.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    own = torch.tensor([[1, 2, 3]])
    loss = loss_of({"divergence": "reverse-kl"})

    def over(tail: Any) -> float:
        ids, classes = teacher_classes(own, log_p.gather(1, own), log_p[:, 0], tail, 4)
        return loss(classes, student_classes(student, ids)).item()

    exact = loss(log_p, student.log_softmax(1)).item()
    assert exact > 10 and over("bucket") == pytest.approx(exact) and over("renormalised") < 1e-6


@pytest.mark.parametrize("kind", FINITE, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("k", [1, 3])
def test_renormalised_is_the_divergence_from_a_teacher_without_a_tail(
    kind: dict[str, Any], k: int
) -> None:
    best = torch.tensor([oracles.best_candidates(row, k) for row in TEACHER.tolist()])
    cut = torch.full_like(TEACHER, -math.inf).scatter(1, best, TEACHER.gather(1, best))
    ids, log_p = teacher_classes(best, *top(k), "renormalised", V)
    loss = loss_of(kind)
    found = loss(log_p, student_classes(STUDENT, ids))
    assert found.tolist() == pytest.approx(expected(kind, cut.log_softmax(1), STUDENT))
    losses, gradient = fused(loss, STUDENT, ids, log_p)
    torch.testing.assert_close(losses, found)
    torch.testing.assert_close(gradient, slope(loss, STUDENT, ids, log_p))


@pytest.mark.parametrize("tail", ["bucket", "renormalised"])
def test_candidates_that_are_the_whole_vocabulary_have_no_rest(tail: Any) -> None:
    values, order = TEACHER.topk(V, dim=1)
    nothing = torch.full((P,), -math.inf, dtype=torch.float64)
    ids, log_p = teacher_classes(order, values, nothing, tail, V)
    assert ids is None
    torch.testing.assert_close(log_p, TEACHER)


# ------------------------------------------------------------------------------------- end points


def test_jsd_divided_by_its_weight_tends_to_the_two_kls() -> None:
    log_q, small = STUDENT.log_softmax(1), 1e-6
    forward, reverse = (
        torch.tensor(expected({"divergence": kind}, TEACHER, STUDENT), dtype=torch.float64)
        for kind in ("forward-kl", "reverse-kl")
    )
    near = jsd(TEACHER, log_q, small) / small, jsd(TEACHER, log_q, 1 - small) / small
    torch.testing.assert_close(near[0], forward, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(near[1], reverse, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(jsd(TEACHER, log_q, 0.0), forward)
    torch.testing.assert_close(jsd(TEACHER, log_q, 1.0), reverse)


def test_jsd_at_a_half_is_symmetric_and_below_log_two() -> None:
    log_q = STUDENT.log_softmax(1)
    found = jsd(TEACHER, log_q, 0.5)
    torch.testing.assert_close(found, jsd(log_q, TEACHER, 0.5))
    assert (found < math.log(2)).all()


@pytest.mark.parametrize("skewed", [skew_kl, reverse_skew_kl])
def test_skewed_wholly_nothing_is_left_to_learn(skewed: Any) -> None:
    x = STUDENT.clone().requires_grad_()
    found = skewed(TEACHER, x.log_softmax(1), 1.0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert found.tolist() == [0.0] * P and not gradient.any()
    near = skewed(TEACHER, STUDENT.log_softmax(1), 1 - 1e-9)
    assert near.abs().max() < 1e-7


@pytest.mark.parametrize("skewed", [skew_kl, reverse_skew_kl])
def test_a_little_skew_is_near_the_kl(skewed: Any) -> None:
    log_q = STUDENT.log_softmax(1)
    torch.testing.assert_close(
        skewed(TEACHER, log_q, 1e-7), skewed(TEACHER, log_q, 0.0), rtol=1e-4, atol=1e-4
    )


@each_kind
@pytest.mark.parametrize("k", [3, V])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(kind: dict[str, Any], k: int) -> None:
    values, order = TEACHER.topk(k, dim=1)
    ids, log_p = teacher_classes(order, values, top(k)[1], "bucket", V)
    # Logits may be shifted by anything.
    losses, gradient = fused(loss_of(kind), TEACHER + 3.0, ids, log_p)
    assert losses.abs().max() < 1e-12
    # The total variation has a kink there: any slope up to its largest will do.
    assert gradient.abs().max() < (0.5 if kind["divergence"] == "tvd" else 1e-12)


@pytest.mark.parametrize("entropy", [True, False])
def test_l_full_is_the_forward_kl_without_the_teachers_entropy(entropy: bool) -> None:
    found = point_loss(LossConfig(), entropy=entropy)(TEACHER, STUDENT.log_softmax(1))
    kl = torch.tensor(expected({"divergence": "forward-kl"}, TEACHER, STUDENT))
    own = 0.0 if entropy else -(TEACHER.exp() * TEACHER).sum(1)
    torch.testing.assert_close(found, kl.double() + own, rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------------- extremes


@each_kind
@pytest.mark.parametrize("k", [1, 3, V])
@pytest.mark.parametrize("scale", [0.0, 30.0, 1e3, 3e4])
def test_extreme_logits_keep_loss_and_slope_finite(
    kind: dict[str, Any], k: int, scale: float
) -> None:
    student, teacher = (scale * STUDENT).float(), (scale * logits(2)).float().log_softmax(1)
    values, order = teacher.topk(k, dim=1)
    chosen = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, order, True)
    tail = teacher.masked_fill(chosen, -math.inf).logsumexp(1)
    loss = loss_of(kind)
    ids, log_p = teacher_classes(order, values, tail, "bucket", V)
    losses, gradient = fused(loss, student, ids, log_p)
    assert losses.isfinite().all() and gradient.isfinite().all() and (losses > -1e-4).all()
    plain = slope(loss, student, ids, log_p)
    assert plain.isfinite().all()
    if kind["divergence"] == "tvd" and scale == 0.0:
        return  # at its kink the sign of rounding decides
    torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-3 * max(1.0, scale))


@each_kind
def test_a_token_that_the_teacher_rules_out(kind: dict[str, Any]) -> None:
    """Log-probability -inf: no more than the floor's share of nats, and never NaN."""
    teacher = TEACHER.clone()
    teacher[:, 2] = -math.inf
    teacher = teacher.log_softmax(1)
    losses, gradient = fused(loss_of(kind), STUDENT, None, teacher)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert (losses < 100).all() and (gradient[:, 2] >= 0).all()


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    positions=st.integers(1, 6),
    size=st.integers(2, 20),
    k=st.integers(1, 24),
    seed=st.integers(0, 10_000),
)
def test_fused_slopes_are_autograds(
    kind: dict[str, Any], positions: int, size: int, k: int, seed: int
) -> None:
    student, teacher = logits(seed, positions, size), logits(seed + 1, positions, size)
    values, order = teacher.log_softmax(1).topk(min(k, size), dim=1)
    tail = torch.log1p(-values.exp().sum(1).clamp(max=1 - 1e-9))
    ids, log_p = teacher_classes(order, values, tail, "bucket", size)
    loss = loss_of(kind)
    losses, gradient = fused(loss, student, ids, log_p)
    torch.testing.assert_close(losses, loss(log_p, student_classes(student, ids)))
    torch.testing.assert_close(gradient, slope(loss, student, ids, log_p))


# --------------------------------------------------------------------------------- policy gradient


def test_the_policy_gradient_is_on_average_the_slope_of_the_reverse_kl() -> None:
    """Every token at every position, weighted by the student's own probability of writing it."""
    q = STUDENT.softmax(1)
    mean_slope, mean_value = torch.zeros_like(STUDENT), torch.zeros(P, dtype=torch.float64)
    for token in range(V):
        written = torch.full((P,), token)
        x = STUDENT.clone().requires_grad_()
        losses = policy_gradient_loss(x, written, TEACHER[:, token])
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        mean_slope += q[:, token, None] * gradient
        mean_value += q[:, token] * losses.detach()
    reverse = loss_of({"divergence": "reverse-kl"})
    torch.testing.assert_close(mean_slope, slope(reverse, STUDENT, None, TEACHER))
    torch.testing.assert_close(mean_value, reverse(TEACHER, STUDENT.log_softmax(1)))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("ruled_out", [False, True])
def test_the_fused_policy_gradient_is_autograds(scale: float, ruled_out: bool) -> None:
    student, written = scale * STUDENT, torch.tensor([0, 3, 6, 2, 2])
    log_p = TEACHER.gather(1, written[:, None]).squeeze(1).float()
    if ruled_out:
        log_p[1] = -math.inf
    x = student.clone().requires_grad_()
    plain = policy_gradient_loss(x, written, log_p)
    (gradient,) = torch.autograd.grad(plain.sum(), x)
    out = torch.full_like(student, math.nan)
    found = policy_gradient_out(student.clone(), written, log_p, out)
    torch.testing.assert_close(found, plain.detach())
    torch.testing.assert_close(out, gradient)
    assert found.isfinite().all()


def test_a_token_likelier_to_the_teacher_is_made_likelier() -> None:
    written = torch.zeros(P, dtype=torch.long)
    log_q = STUDENT.log_softmax(1)[:, 0]
    for lead, sign in ((1.0, -1), (-1.0, 1), (0.0, 0)):
        out = torch.empty_like(STUDENT)
        policy_gradient_out(STUDENT.clone(), written, log_q + lead, out)
        assert (out[:, 0].sign() == sign).all() or out[:, 0].abs().max() < 1e-12
