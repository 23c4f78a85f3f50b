"""AdamW, its learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from student_trainer.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Rate of optimiser step t, from 1.

    Linear warm-up to the peak, then ``inverse-sqrt``: ``peak * sqrt(warmup / t)`` (Noam), or a
    ``linear`` or ``cosine`` fall to ``final_share * peak`` at the last step. Over the last
    ``cooldown`` share of the steps the rate is multiplied by a factor that falls linearly to 0.
    """
    left, cooldown = config.steps - step, config.cooldown * config.steps
    factor = max(0.0, left / cooldown) if left < cooldown else 1.0
    return factor * _scheduled(config, step)


def _scheduled(config: OptimiserConfig, step: int) -> float:
    peak, warmup = config.learning_rate, config.warmup
    if step <= warmup:
        return peak * step / warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse-sqrt":
        return peak * math.sqrt(max(1, warmup) / step)
    progress = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    fall = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (config.final_share + (1 - config.final_share) * fall)


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all parameters in one group, in the order of ``named_parameters``."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=1e-9,
        weight_decay=config.weight_decay,
        fused=True,
    )


def export_moments(model: nn.Module, optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: ``exp_avg/NAME``, ``exp_avg_sq/NAME``, ``step``."""
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimiser.state.get(parameter)
        if state:
            tensors[f"exp_avg/{name}"] = state["exp_avg"]
            tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
            tensors[f"step/{name}"] = torch.as_tensor(state["step"], dtype=torch.float32)
    return tensors


def import_moments(
    model: nn.Module, optimiser: torch.optim.AdamW, tensors: dict[str, Tensor]
) -> None:
    """Put back what :func:`export_moments` returned."""
    for name, parameter in model.named_parameters():
        if f"exp_avg/{name}" in tensors:
            optimiser.state[parameter] = {
                key: tensors[f"{key}/{name}"].clone().to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }


class WeightAverage:
    """Exponential moving average of the parameters, evaluated and saved in their stead.

    Early on the decay is ``(1 + t) / (10 + t)``, so the average is not held back by the
    initialisation.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.tensors = {n: p.detach().clone() for n, p in model.named_parameters()}

    def update(self, step: int) -> None:
        """Take in the weights after optimiser step t."""
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = [p.detach() for p in self._model.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), parameters, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside the block, its own weights after it."""
        own = {n: p.detach().clone() for n, p in self._model.named_parameters()}
        self._copy(self.tensors)
        try:
            yield
        finally:
            self._copy(own)

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(tensors[name])
