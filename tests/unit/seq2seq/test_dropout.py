"""Pooled dropout against its definition: rate, scale, independence, reproducibility."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from seq2seq.dropout import DropoutSource, PooledDropout
from tests.builders import tiny_model

POOL = 1 << 16


def layer(rate: float, seed: int = 0, step: int = 0) -> PooledDropout:
    source = DropoutSource(POOL)
    source.begin_step(seed, step)
    return PooledDropout(rate, source).train()


def kept(source: DropoutSource, count: int = 2000, rate: float = 0.5) -> Tensor:
    return (source.mask(count, rate) > 0).double()


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])


def test_off_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(50)
    assert torch.equal(layer(0.5).eval()(x), x)
    assert torch.equal(layer(0.0)(x), x)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_zeros_at_the_rate_and_scales_the_rest(rate: float) -> None:
    y = layer(rate)(torch.ones(30_000))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-6)
    share = float((y == 0).double().mean())
    assert abs(share - rate) < 5 * (rate * (1 - rate) / 30_000) ** 0.5
    # The pool is one draw: its mean is the mean of every slice in expectation.
    means = []
    for step in range(0, 400, 4):
        means.append(float(layer(rate, seed=3, step=step)(torch.ones(2000)).mean()))
    assert abs(np.mean(means) - 1) < 5 * (rate / (1 - rate) / 200_000) ** 0.5


def test_multiplies_what_it_is_given() -> None:
    x = torch.randn(40, 7)
    mask = layer(0.4)(torch.ones(40, 7))
    assert torch.equal(layer(0.4)(x), x * mask)


def test_gradient_is_the_mask() -> None:
    x = torch.randn(500, requires_grad=True)
    layer(0.4)(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, layer(0.4)(torch.ones(500)))


@pytest.mark.parametrize(("rate", "training"), [(0.4, True), (0.4, False), (0.0, True)])
def test_one_pass_forms_equal_their_definitions(rate: float, training: bool) -> None:
    """Values and gradients, float64; inputs that are exactly zero included."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(60, 9, generator=generator, dtype=torch.float64)
    x, change = (torch.randn(60, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    x[0] = 0.0
    forms = {
        "add": (lambda f, a, b: f.add(a, b), lambda f, a, b: a + f(b)),
        "relu": (lambda f, a, b: f.relu_(a * b), lambda f, a, b: f(torch.relu(a * b))),
    }
    for quick, plain in forms.values():
        found = []
        for form in (quick, plain):
            a, b = x.clone().requires_grad_(), change.clone().requires_grad_()
            y = form(layer(rate).train(training), a, b)
            (y * weight).sum().backward()
            found.append((y.detach(), a.grad, b.grad))
        torch.testing.assert_close(found[0], found[1])


def test_masks_are_a_function_of_seed_and_step() -> None:
    def masks(seed: int, step: int, before: list[tuple[int, int]]) -> list[list[float]]:
        source = DropoutSource(POOL)
        for other in before:
            source.begin_step(*other)
            source.mask(100, 0.5)
        source.begin_step(seed, step)
        return [source.mask(300, 0.5).tolist() for _ in range(3)]

    resumed, uninterrupted = masks(7, 9, []), masks(7, 9, [(7, 1), (7, 8), (2, 9)])
    assert resumed == uninterrupted
    assert masks(8, 9, []) != resumed
    assert masks(7, 10, []) != resumed


def test_layers_of_one_step_have_unrelated_masks() -> None:
    source = DropoutSource(POOL)
    found = []
    for step in range(120):
        source.begin_step(1, step)
        found.append(correlation(kept(source), kept(source)))
    # 120 correlations of 2000 pairs each: their mean has a standard deviation of 0.002.
    assert abs(np.mean(found)) < 0.012
    assert max(np.abs(found)) < 0.2


@pytest.mark.parametrize("distance", [1, 4])
def test_steps_have_unrelated_masks(distance: int) -> None:
    source = DropoutSource(POOL)
    found = []
    for step in range(0, 480, 8):
        masks = []
        for s in (step, step + distance):
            source.begin_step(1, s)
            masks.append(kept(source))
        found.append(correlation(*masks))
    assert abs(np.mean(found)) < 0.015
    assert max(np.abs(found)) < 0.2


def test_two_rates_do_not_share_a_pool() -> None:
    source = DropoutSource(POOL)
    source.begin_step(0, 0)
    low, high = source.mask(20_000, 0.1), source.mask(20_000, 0.8)
    assert abs(float((low == 0).double().mean()) - 0.1) < 0.02
    assert abs(float((high == 0).double().mean()) - 0.8) < 0.02


@pytest.mark.parametrize("count", [1, 255, 256, 257, 512, 1500])
def test_activations_larger_than_the_pool(count: int) -> None:
    source = DropoutSource(512)
    source.begin_step(0, 0)
    mask = source.mask(count, 0.5)
    assert mask.shape == (count,)
    assert set(mask.tolist()) <= {0.0, 2.0}
    if count > 1000:
        assert 0.3 < float((mask == 0).double().mean()) < 0.7


def test_a_model_drops_in_training_only_and_repeats_itself_by_step() -> None:
    model = tiny_model(dropout=0.4)
    source, lengths = torch.tensor([[5, 6, 7, 1]]), torch.tensor([4])
    inputs = torch.tensor([[3, 8, 9]])

    def logits(seed: int, step: int) -> Tensor:
        model.train()
        model.dropout_source.begin_step(seed, step)
        return model(source, lengths, inputs)

    first, again, other = logits(1, 5), logits(1, 5), logits(1, 6)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    plain = model.eval()(source, lengths, inputs)
    assert torch.equal(plain, model(source, lengths, inputs))
    assert not torch.allclose(plain, first)
