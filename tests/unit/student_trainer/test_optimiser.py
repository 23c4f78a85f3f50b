"""Learning-rate schedules, AdamW and its moments, the moving average of the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from student_trainer.config import OptimiserConfig
from student_trainer.optimiser import (
    WeightAverage,
    export_moments,
    import_moments,
    learning_rate,
    make_optimiser,
)
from tests import oracles
from tests.builders import tiny_model, weights_of

PEAK, WARMUP, STEPS = 0.01, 10, 50


def config(**changes: Any) -> OptimiserConfig:
    values: dict[str, Any] = {"steps": STEPS, "learning_rate": PEAK, "warmup": WARMUP}
    return OptimiserConfig(**(values | changes))


SCHEDULES = ["inverse-sqrt", "linear", "cosine", "constant"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_linearly_to_the_peak(schedule: str) -> None:
    setting = config(schedule=schedule)
    for step in range(1, WARMUP + 1):
        assert learning_rate(setting, step) == pytest.approx(PEAK * step / WARMUP)
    rates = [learning_rate(setting, step) for step in range(WARMUP, STEPS + 1)]
    assert max(rates) == rates[0] == PEAK
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("step", [11, 30, 49, 50])
def test_the_rate_after_the_warm_up(step: int, share: float) -> None:
    def rate(schedule: str) -> float:
        return learning_rate(config(schedule=schedule, final_share=share), step)

    progress, end = (step - WARMUP) / (STEPS - WARMUP), share * PEAK
    assert rate("constant") == PEAK
    assert rate("inverse-sqrt") == pytest.approx(PEAK * math.sqrt(WARMUP / step))
    assert rate("linear") == pytest.approx(PEAK + progress * (end - PEAK))
    cosine = end + (PEAK - end) * (1 + math.cos(math.pi * progress)) / 2
    assert rate("cosine") == pytest.approx(cosine)
    if step == STEPS:
        assert rate("linear") == pytest.approx(end) and rate("cosine") == pytest.approx(end)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, STEPS, STEPS + 5])
def test_no_warm_up_and_nothing_but_warm_up(schedule: str, warmup: int) -> None:
    rates = [
        learning_rate(config(schedule=schedule, warmup=warmup), t) for t in range(1, STEPS + 1)
    ]
    assert all(0 <= r <= PEAK and math.isfinite(r) for r in rates)
    if warmup == 0 and schedule in ("inverse-sqrt", "constant"):
        assert rates[0] == PEAK
    if warmup > 0:
        assert rates == pytest.approx([PEAK * t / warmup for t in range(1, STEPS + 1)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_cooldown_falls_linearly_to_zero_and_changes_nothing_before_it(schedule: str) -> None:
    plain, cooled = config(schedule=schedule), config(schedule=schedule, cooldown=0.4)
    begin = round(0.6 * STEPS)
    for step in range(1, STEPS + 1):
        left = min(1.0, (STEPS - step) / (STEPS - begin))
        assert learning_rate(cooled, step) == pytest.approx(learning_rate(plain, step) * left)


def test_two_steps_of_adamw_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    w = 0.5
    nn.init.constant_(model.weight, w)
    optimiser = make_optimiser(model, config(betas=(0.8, 0.9), weight_decay=0.1))
    m = v = 0.0
    for t, slope in enumerate((2.0, -3.0), 1):
        model.weight.grad = torch.tensor([[slope]])
        optimiser.step()
        m, v = 0.8 * m + 0.2 * slope, 0.9 * v + 0.1 * slope**2
        w -= PEAK * 0.1 * w
        w -= PEAK * (m / (1 - 0.8**t)) / (math.sqrt(v / (1 - 0.9**t)) + 1e-9)
        assert model.weight.item() == pytest.approx(w, rel=1e-5)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config(), step)
        optimiser.step()


def test_a_fresh_optimiser_has_no_moments() -> None:
    model = tiny_model()
    assert export_moments(model, make_optimiser(model, config())) == {}


def test_moments_saved_and_read_back_continue_exactly(tmp_path: Path) -> None:
    whole = tiny_model(1)
    optimiser = make_optimiser(whole, config(weight_decay=0.1))
    train(whole, optimiser, range(1, 4))
    moments = export_moments(whole, optimiser)
    names = [n for n, _ in whole.named_parameters()]
    assert sorted(moments) == sorted(
        f"{kind}/{n}" for n in names for kind in ("exp_avg", "exp_avg_sq", "step")
    )
    save_file({k: t.contiguous() for k, t in moments.items()}, str(tmp_path / "m"))
    weights = weights_of(whole)
    train(whole, optimiser, range(4, 7))

    resumed = tiny_model(2)
    resumed.load_state_dict(weights)
    again = make_optimiser(resumed, config(weight_decay=0.1))
    import_moments(resumed, again, load_file(str(tmp_path / "m")))
    train(resumed, again, range(4, 7))
    for name, tensor in weights_of(whole).items():
        assert torch.equal(weights_of(resumed)[name], tensor), name
    without = tiny_model(2)
    without.load_state_dict(weights)
    train(without, make_optimiser(without, config(weight_decay=0.1)), range(4, 7))
    assert not torch.equal(without.logit_bias, whole.logit_bias)


def test_imported_moments_are_copies() -> None:
    model = tiny_model(1)
    optimiser = make_optimiser(model, config())
    train(model, optimiser, range(1, 3))
    moments = {k: t.clone() for k, t in export_moments(model, optimiser).items()}
    other = tiny_model(2)
    again = make_optimiser(other, config())
    import_moments(other, again, moments)
    kept = {k: t.clone() for k, t in moments.items()}
    train(other, again, range(3, 5))
    assert all(torch.equal(moments[k], t) for k, t in kept.items())


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_equals_the_loop(decay: float) -> None:
    model = tiny_model(1)
    average = WeightAverage(model, decay)
    history = [model.logit_bias.tolist()]
    for step in range(1, 8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        history.append(model.logit_bias.tolist())
    expected = oracles.weight_average(history, decay)
    assert average.tensors["logit_bias"].tolist() == pytest.approx(expected, abs=1e-5)
    assert average.tensors.keys() == dict(model.named_parameters()).keys()


def test_the_average_is_applied_inside_the_block_alone_even_after_a_fault() -> None:
    model = tiny_model(1)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.logit_bias.add_(1.0)
    average.update(1)
    own, averaged = weights_of(model), {k: t.clone() for k, t in average.tensors.items()}
    with pytest.raises(KeyError), average.applied():
        assert all(torch.equal(weights_of(model)[k], t) for k, t in averaged.items())
        raise KeyError
    assert all(torch.equal(weights_of(model)[k], t) for k, t in own.items())
    assert all(torch.equal(average.tensors[k], t) for k, t in averaged.items())
    assert not torch.equal(own["logit_bias"], averaged["logit_bias"])
