"""Losses against the loops of ``tests/oracles.py``, in float64, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from student_trainer.divergences import cross_entropy, student_classes, teacher_classes
from student_trainer.losses import reference_loss, wide
from tests import oracles

P, V = 5, 7
Tail = Literal["bucket", "renormalised"]
TAILS: list[Tail] = ["bucket", "renormalised"]


def full_loss(x: Tensor, teacher: Tensor) -> Tensor:
    """L_full over the whole vocabulary, as the trainer puts it together."""
    return cross_entropy(teacher.to(wide(x).dtype), student_classes(x, None))


def full_loss_top_k(x: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor, how: Tail) -> Tensor:
    """L_full over candidates, likewise."""
    dtype = wide(x).dtype
    classes = teacher_classes(ids, log_probs.to(dtype), tail.to(dtype), how, x.shape[1])
    return cross_entropy(classes[1], student_classes(x, classes[0]))


def logits(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(P, V, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = logits(1), logits(2).log_softmax(1)


def by_position(
    loss: Callable[[list[float], list[float]], float], teacher: Tensor = TEACHER
) -> Tensor:
    """The oracle at each of the P positions."""
    pairs = zip(STUDENT.tolist(), teacher.tolist(), strict=True)
    return torch.tensor([loss(oracles.log_softmax(q), p) for q, p in pairs], dtype=torch.float64)


def candidates(k: int, teacher: Tensor = TEACHER) -> tuple[Tensor, Tensor, Tensor]:
    """What the wire brings: (ids, log-probs, tail log-mass) of the k best."""
    ids = torch.tensor([oracles.best_candidates(row, k) for row in teacher.tolist()])
    chosen = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, ids, True)
    rest = teacher.masked_fill(chosen, -torch.inf).logsumexp(1)
    return ids, teacher.gather(1, ids), rest


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor = STUDENT) -> Tensor:
    x = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x).sum(), x)
    return found


def check_gradient(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, STUDENT.clone().requires_grad_())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_reference_loss(smoothing: float) -> None:
    targets = [0, 3, 6, 2, 2]
    expected = [
        oracles.reference_loss(oracles.log_softmax(q), y, smoothing)
        for q, y in zip(STUDENT.tolist(), targets, strict=True)
    ]
    found = reference_loss(STUDENT, torch.tensor(targets), smoothing)
    assert found.tolist() == pytest.approx(expected)
    check_gradient(lambda x: reference_loss(x, torch.tensor(targets), smoothing))


def test_l_opt_is_the_loss_of_the_teachers_best_token() -> None:
    best = candidates(1)[0][:, 0]
    torch.testing.assert_close(reference_loss(STUDENT, best), by_position(oracles.l_opt))


def test_l_full() -> None:
    torch.testing.assert_close(full_loss(STUDENT, TEACHER), by_position(oracles.l_full))
    check_gradient(lambda x: full_loss(x, TEACHER))


def test_l_full_where_the_teacher_rules_tokens_out() -> None:
    teacher = TEACHER.clone()
    teacher[:, [0, 4]] = -torch.inf
    teacher = teacher.log_softmax(1)
    torch.testing.assert_close(full_loss(STUDENT, teacher), by_position(oracles.l_full, teacher))
    check_gradient(lambda x: full_loss(x, teacher))


@pytest.mark.parametrize("k", [1, 3, V - 1, V])
def test_top_k_with_a_tail_bucket(k: int) -> None:
    found = full_loss_top_k(STUDENT, *candidates(k), "bucket")
    torch.testing.assert_close(found, by_position(lambda q, p: oracles.l_full_bucket(q, p, k)))
    check_gradient(lambda x: full_loss_top_k(x, *candidates(k), "bucket"))


@pytest.mark.parametrize("k", [1, 3, V])
def test_top_k_renormalised(k: int) -> None:
    found = full_loss_top_k(STUDENT, *candidates(k), "renormalised")
    expected = by_position(lambda q, p: oracles.l_full_renormalised(q, p, k))
    torch.testing.assert_close(found, expected)
    check_gradient(lambda x: full_loss_top_k(x, *candidates(k), "renormalised"))


@pytest.mark.parametrize("tail", TAILS)
def test_all_of_the_vocabulary_as_candidates_is_l_full(tail: Tail) -> None:
    """k >= V: the tail is empty, its log-mass -inf; value and gradient stay those of L_full."""
    ids, log_probs, rest = candidates(V)
    assert rest.tolist() == [-math.inf] * P
    for dtype in (torch.float64, torch.float32):
        x = STUDENT.to(dtype)
        labels = ids, log_probs.to(dtype), rest.to(dtype)
        torch.testing.assert_close(
            full_loss_top_k(x, *labels, tail), full_loss(x, TEACHER.to(dtype))
        )
        found = gradient(lambda y, held=labels: full_loss_top_k(y, *held, tail), x)
        torch.testing.assert_close(found, gradient(lambda y: full_loss(y, TEACHER.to(y.dtype)), x))


def test_an_empty_tail_beside_left_out_tokens() -> None:
    """A teacher that is certain of its candidates: -inf is legal below k = V as well."""
    teacher = TEACHER.clone()
    teacher.scatter_(1, candidates(V)[0][:, 3:], -torch.inf)
    teacher = teacher.log_softmax(1)
    labels = candidates(3, teacher)
    assert labels[2].tolist() == [-math.inf] * P
    found = full_loss_top_k(STUDENT, *labels, "bucket")
    torch.testing.assert_close(found, by_position(oracles.l_full, teacher))
    check_gradient(lambda x: full_loss_top_k(x, *labels, "bucket"))


def test_rows_with_and_without_a_tail_do_not_disturb_each_other() -> None:
    ids, log_probs, rest = candidates(3)
    rest = rest.clone()
    rest[1] = -torch.inf
    alone = torch.cat(
        [
            gradient(
                lambda x, n=n: full_loss_top_k(
                    x, ids[n : n + 1], log_probs[n : n + 1], rest[n : n + 1], "bucket"
                ),
                STUDENT[n : n + 1],
            )
            for n in range(P)
        ]
    )
    together = gradient(lambda x: full_loss_top_k(x, ids, log_probs, rest, "bucket"))
    torch.testing.assert_close(together, alone)


def test_the_bucket_is_content_with_the_teacher_itself_and_renormalising_is_not() -> None:
    labels = candidates(3)
    bucket = gradient(lambda x: full_loss_top_k(x, *labels, "bucket"), TEACHER)
    torch.testing.assert_close(bucket, torch.zeros_like(bucket))
    other = gradient(lambda x: full_loss_top_k(x, *labels, "renormalised"), TEACHER)
    chosen = torch.zeros(P, V, dtype=torch.bool).scatter(1, labels[0], True)
    assert (other[chosen] < 0).all() and (other[~chosen] > 0).all()


def test_the_bucket_charges_for_mass_outside_the_candidates() -> None:
    ids, log_probs, rest = candidates(2)
    lavish = STUDENT.clone()
    outside = torch.ones(P, V, dtype=torch.bool).scatter(1, ids, False)
    lavish[outside] += 5.0
    grown = full_loss_top_k(lavish, ids, log_probs, rest, "bucket")
    assert (grown > full_loss_top_k(STUDENT, ids, log_probs, rest, "bucket")).all()
    # Coarser classes cannot cost more than the classes they join.
    assert (
        full_loss_top_k(STUDENT, ids, log_probs, rest, "bucket") <= full_loss(STUDENT, TEACHER)
    ).all()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("k", [1, 3, V])
def test_labels_rounded_on_the_wire_stay_a_distribution(k: int, tail: Tail) -> None:
    ids, log_probs, rest = candidates(k)
    rounded = log_probs.half().float(), rest.half().float()
    exact = full_loss_top_k(STUDENT.float(), ids, log_probs.float(), rest.float(), tail)
    found = full_loss_top_k(STUDENT.float(), ids, *rounded, tail)
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0.01)
    # Whatever they sum to is divided out: a common factor changes nothing.
    shifted = full_loss_top_k(STUDENT, ids, log_probs + 0.1, rest + 0.1, tail)
    torch.testing.assert_close(shifted, full_loss_top_k(STUDENT, ids, log_probs, rest, tail))


LOSSES: list[Any] = [
    pytest.param(lambda x: reference_loss(x, candidates(1)[0][:, 0], 0.1), id="reference"),
    pytest.param(lambda x: full_loss(x, TEACHER.to(x.dtype)), id="full"),
    *(
        pytest.param(
            lambda x, tail=tail, k=k: full_loss_top_k(
                x, candidates(k)[0], *(t.to(x.dtype) for t in candidates(k)[1:]), tail
            ),
            id=f"{tail}-{k}",
        )
        for tail in TAILS
        for k in (1, 3, V)
    ),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_keep_losses_and_gradients_finite(loss: Callable[[Tensor], Tensor]) -> None:
    for scale in (0.0, 1e3, 3e4):
        x = (scale * STUDENT).float()
        assert loss(x).isfinite().all() and (loss(x) >= -1e-3).all()
        assert gradient(loss, x).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_give_float32_losses(loss: Callable[[Tensor], Tensor]) -> None:
    found = loss(STUDENT.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(STUDENT.float()), atol=0.1, rtol=0.02)
