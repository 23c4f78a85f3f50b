"""Losses that write their own gradients: value and slope of the plain ones, and of the oracles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from student_trainer.divergences import cross_entropy, student_classes, teacher_classes
from student_trainer.fused_losses import class_loss_out, reference_loss_out
from student_trainer.losses import reference_loss
from tests import oracles

Tail = Literal["bucket", "renormalised"]
TAILS: list[Tail] = ["bucket", "renormalised"]
Plain = Callable[[Tensor], Tensor]
Fused = Callable[[Tensor, Tensor], Tensor]


def full_loss_top_k(x: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor, how: Tail) -> Tensor:
    """L_full over candidates, as the trainer puts it together."""
    classes = teacher_classes(ids, log_probs.to(x.dtype), tail.to(x.dtype), how, x.shape[1])
    return cross_entropy(classes[1], student_classes(x, classes[0]))


def full_loss_top_k_out(
    x: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor, how: Tail, out: Tensor
) -> Tensor:
    """The same with its gradient."""
    classes = teacher_classes(ids, log_probs.to(x.dtype), tail.to(x.dtype), how, x.shape[1])
    return class_loss_out(x, *classes, cross_entropy, out)


def case(
    kind: str, positions: int, size: int, seed: int, k: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Plain, Fused]:
    """Logits, a plain loss of them and its fused form."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(positions, size, generator=generator, dtype=torch.float64)
    if kind in ("hard", "smoothed"):
        targets = torch.randint(size, (positions,), generator=generator)
        smoothing = 0.1 if kind == "smoothed" else 0.0
        return (
            logits.to(dtype),
            lambda x: reference_loss(x, targets, smoothing),
            lambda x, out: reference_loss_out(x, targets, smoothing, out),
        )
    teacher = torch.randn(positions, size, generator=generator, dtype=torch.float64).mul_(2)
    teacher = teacher.log_softmax(1)
    log_probs, ids = teacher.topk(min(k, size), dim=1)
    chosen = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, ids, True)
    tail = teacher.masked_fill(chosen, -torch.inf).logsumexp(1)
    labels = ids, log_probs.to(dtype), tail.to(dtype)
    how: Any = kind
    return (
        logits.to(dtype),
        lambda x: full_loss_top_k(x, *labels, how),
        lambda x, out: full_loss_top_k_out(x, *labels, how, out),
    )


def run(fused: Fused, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradient; ``out`` begins as garbage."""
    out = torch.full_like(logits, math.nan)
    return fused(logits.clone(), out), out


def slope(plain: Plain, logits: Tensor) -> Tensor:
    x = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(plain(x).sum(), x)
    return found


KINDS = ["hard", "smoothed", *TAILS]


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    positions=st.integers(1, 9),
    size=st.integers(2, 33),
    k=st.integers(1, 40),
    seed=st.integers(0, 10_000),
)
def test_value_and_slope_are_those_of_the_plain_loss(
    kind: str, positions: int, size: int, k: int, seed: int
) -> None:
    logits, plain, fused = case(kind, positions, size, seed, k)
    losses, gradient = run(fused, logits)
    torch.testing.assert_close(losses, plain(logits))
    torch.testing.assert_close(gradient, slope(plain, logits))


class _Differentiable(torch.autograd.Function):
    """A fused loss as a node of a graph."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, fused: Fused) -> Tensor:
        losses, gradient = run(fused, logits)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return slopes[0][:, None] * gradient, None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_gradcheck(kind: str, k: int) -> None:
    logits, _, fused = case(kind, 5, 7, seed=k, k=k)
    apply: Any = _Differentiable.apply
    assert torch.autograd.gradcheck(lambda x: apply(x, fused), logits.requires_grad_())


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_oracles_agree(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    student, teacher = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64).mul(2)
    rows = [(oracles.log_softmax(q), oracles.log_softmax(p)) for q, p in zip(
        student.tolist(), teacher.tolist(), strict=True
    )]  # fmt: skip
    ids = torch.tensor([oracles.best_candidates(p, k) for _, p in rows])
    log_probs = torch.tensor([[p[v] for v in best] for (_, p), best in zip(
        rows, ids.tolist(), strict=True
    )], dtype=torch.float64)  # fmt: skip
    tail = torch.full((6,), -math.inf, dtype=torch.float64)
    if k < 7:
        tail = torch.log1p(-log_probs.exp().sum(1))
    for how, oracle in (
        ("bucket", oracles.l_full_bucket),
        ("renormalised", oracles.l_full_renormalised),
    ):
        kind: Any = how
        found, _ = run(
            lambda x, out, kind=kind: full_loss_top_k_out(x, ids, log_probs, tail, kind, out),
            student,
        )
        assert found.tolist() == pytest.approx([oracle(q, p, k) for q, p in rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_extreme_logits_in_float32_keep_value_and_slope(kind: str, k: int) -> None:
    """Where the student leaves next to nothing outside the candidates, and everywhere else."""
    for scale in (0.0, 30.0, 1e3, 1e4):
        logits, plain, fused = case(kind, 6, 7, seed=k, k=k, dtype=torch.float32)
        logits = scale * logits
        losses, gradient = run(fused, logits)
        torch.testing.assert_close(losses, plain(logits), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient, slope(plain, logits), rtol=1e-4, atol=1e-4)


def test_labels_rounded_on_the_wire_are_a_distribution_again() -> None:
    logits, _, _ = case("bucket", 4, 9, seed=1)
    generator = torch.Generator().manual_seed(5)
    teacher = torch.randn(4, 9, generator=generator).log_softmax(1)
    log_probs, ids = teacher.topk(3, dim=1)
    tail = torch.log1p(-log_probs.exp().sum(1))
    found = []
    for shift in (0.0, 0.125):
        labels = ids, log_probs + shift, tail + shift
        found.append(
            run(lambda x, out, held=labels: full_loss_top_k_out(x, *held, "bucket", out), logits)
        )
    torch.testing.assert_close(found[0], found[1])
    # One class each: the gradient of a row sums to nothing.
    assert found[0][1].sum(1).abs().max() < 1e-6


def test_an_empty_tail_takes_no_notice_of_what_the_student_leaves_there() -> None:
    logits, _, _ = case("bucket", 3, 8, seed=2)
    ids = torch.tensor([[1, 2], [0, 7], [3, 4]])
    log_probs = torch.log(torch.tensor([[0.75, 0.25]] * 3, dtype=torch.float64))
    empty = torch.full((3,), -math.inf, dtype=torch.float64)
    losses, gradient = run(
        lambda x, out: full_loss_top_k_out(x, ids, log_probs, empty, "bucket", out), logits
    )
    expected = -(log_probs.exp() * logits.log_softmax(1).gather(1, ids)).sum(1)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, logits.softmax(1).scatter_add(1, ids, -log_probs.exp()))
