"""The teacher's output projection at the learner: whole distributions from its decoder states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from teacher_service.projection import OutputProjection


@dataclass(frozen=True)
class TeacherHead:
    """``log_softmax((logit_scale * W h + b) / temperature)`` on the learner's device.

    Attributes:
        weight_VD, bias_V: float32.
    """

    weight_VD: Tensor
    bias_V: Tensor
    logit_scale: float

    @classmethod
    def of(cls, projection: OutputProjection, device: torch.device | str) -> TeacherHead:
        """Take over the tensors that the teacher handed out."""
        weight, bias = projection.weight_VD, projection.bias_V
        return cls(
            torch.tensor(weight, device=device),
            torch.tensor(bias, device=device),
            projection.logit_scale,
        )

    def log_probs(self, states_QD: Tensor, temperature: float) -> Tensor:
        """float32 ``[Q, V]``."""
        scores = self.logit_scale * (states_QD @ self.weight_VD.t()) + self.bias_V
        return (scores / temperature).log_softmax(1)

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name."""
        scale = torch.tensor(self.logit_scale, dtype=torch.float64)
        return {"weight_VD": self.weight_VD, "bias_V": self.bias_V, "logit_scale": scale}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str) -> TeacherHead:
        """The head that :meth:`tensors` are of."""
        return cls(
            tensors["weight_VD"].to(device),
            tensors["bias_V"].to(device),
            float(tensors["logit_scale"]),
        )
