"""One update of the student: gradients of a portion, their sum over all processes, AdamW's step.

Every process of a learner makes the same update, so all hold the same weights and moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel
from student_trainer.assembly import TrainingBatch, assemble, assemble_each
from student_trainer.config import RunConfig
from student_trainer.data_parallel import Group, SummedGradients
from student_trainer.objective import backward
from student_trainer.optimiser import export_moments, import_moments, learning_rate, make_optimiser
from student_trainer.portions import Portion
from student_trainer.teacher_head import TeacherHead


@dataclass(frozen=True)
class Updated:
    """What one update was.

    Attributes:
        loss: mean over all loss positions of the batch.
        gradient_norm: of the whole batch's gradient, before clipping.
    """

    loss: float
    gradient_norm: float
    learning_rate: float


class Update:
    """Student and optimiser of one process."""

    def __init__(
        self,
        config: RunConfig,
        model: Seq2SeqModel,
        pad_id: int,
        head: TeacherHead | None = None,
        group: Group | None = None,
    ) -> None:
        """Move the model to its device.

        Args:
            head: makes distributions of the teacher's states, where those are the payload.
            group: the learner's processes; None: this one alone.
        """
        self._config, self._pad_id, self._head, self._group = config, pad_id, head, group
        self._model = model.to(config.device)
        self._optimiser = make_optimiser(model, config.optimiser)
        self._gradients = SummedGradients(model, group) if group is not None else None

    def __call__(self, portion: Portion) -> Updated:
        """Update the weights by a batch, of which this process has ``portion``.

        Raises:
            UserError: the loss is not finite, the weights are left as they were; or a process of
                the learner is gone.
        """
        config = self._config
        parts = self._assembled(portion)
        self._model.train()
        self._seed_dropout(portion.step)
        if self._gradients is None:
            self._optimiser.zero_grad(set_to_none=True)
        else:
            self._gradients.clear()
        loss = sum(
            backward(
                self._model,
                part,
                config.method,
                config.loss,
                positions=portion.positions,
                precision=config.precision,
                head=self._head,
            )
            for part in parts
        )
        if self._gradients is not None:
            loss = self._gradients.sum(loss)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), config.optimiser.clip)
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"batch {portion.step - 1}: loss {loss}, gradient norm {norm}; lower "
                "optimiser.learning_rate and resume from the last checkpoint"
            )
        rate = learning_rate(config.optimiser, portion.step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        return Updated(loss, norm, rate)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments, named as in a checkpoint: ``model/...``, ``optimiser/...``."""
        found = {f"model/{k}": v for k, v in self._model.state_dict().items()}
        moments = export_moments(self._model, self._optimiser)
        return found | {f"optimiser/{k}": v for k, v in moments.items()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Put back what :meth:`tensors` returned, :func:`in_parts`; other parts are left alone.

        Raises:
            RuntimeError: the weights are those of another model.
        """
        self._model.load_state_dict(parts["model"])
        import_moments(self._model, self._optimiser, parts.get("optimiser", {}))

    def _assembled(self, portion: Portion) -> list[TrainingBatch]:
        pad_id, device = self._pad_id, self._config.device
        if self._config.batch.accumulate:
            return assemble_each(portion.shards, pad_id, device)
        return [assemble(portion.shards, pad_id, device)]

    def _seed_dropout(self, step: int) -> None:
        """Masks are a function of seed, step and process."""
        seed, rank = self._config.seed, self._group.rank if self._group is not None else 0
        self._model.dropout_source.begin_step(seed, step, rank)
        if self._config.device != "cpu":
            torch.manual_seed((seed * 1_000_003 + step) ^ (rank << 48))


def in_parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named ``PART/NAME`` by part, then by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    return parts
