"""Which loss each position of a batch gets, in pieces that are treated alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from student_trainer.assembly import TrainingBatch
from student_trainer.config import LossConfig
from student_trainer.divergences import PointLoss, point_loss, student_classes, teacher_classes
from student_trainer.fused_losses import class_loss_out, policy_gradient_out, reference_loss_out
from student_trainer.losses import policy_gradient_loss, reference_loss, wide
from student_trainer.methods import METHODS, Method
from student_trainer.teacher_head import TeacherHead


@dataclass(frozen=True)
class Piece:
    """Loss positions that are treated alike, at most a chunk of them.

    Attributes:
        losses: of logits, differentiable.
        losses_out: of logits, which are destroyed, with the gradient in its second argument.
    """

    part: slice
    losses: Callable[[Tensor], Tensor]
    losses_out: Callable[[Tensor, Tensor], Tensor]


def pieces(
    batch: TrainingBatch,
    method: Method,
    loss: LossConfig,
    chunk: int,
    head: TeacherHead | None = None,
) -> Iterator[Piece]:
    """Scored positions by what the method learns there, the others by their target."""
    scored, end = batch.scored_positions, batch.positions
    spec = METHODS[method]
    label = _Label(batch, loss, entropy=spec.any_divergence, head=head)
    if spec.label == "argmax":
        of = label.argmax
    elif loss.divergence == "policy-gradient":
        of = label.policy
    else:
        of = label.distribution
    for begin in range(0, scored, chunk):
        yield of(slice(begin, min(begin + chunk, scored)))
    for begin in range(scored, end, chunk):
        part = slice(begin, min(begin + chunk, end))
        yield _token(part, batch.target_P[part], loss.label_smoothing)


class _Label:
    """Pieces of scored positions."""

    def __init__(
        self, batch: TrainingBatch, loss: LossConfig, *, entropy: bool, head: TeacherHead | None
    ) -> None:
        self._batch, self._loss, self._head = batch, loss, head
        self._entropy = entropy

    def argmax(self, part: slice) -> Piece:
        """L_opt; candidates come most probable first."""
        batch = self._batch
        if batch.ids_QK.shape[1]:
            return _token(part, batch.ids_QK[part, 0], 0.0)
        return _token(part, self._whole(part).argmax(1), 0.0)

    def policy(self, part: slice) -> Piece:
        """The policy gradient of the tokens written."""
        targets, log_probs = self._batch.target_P[part], self._batch.token_log_probs_Q[part]
        return Piece(
            part,
            lambda logits: policy_gradient_loss(logits, targets, log_probs),
            lambda logits, out: policy_gradient_out(logits, targets, log_probs, out),
        )

    def distribution(self, part: slice) -> Piece:
        """A divergence over the classes that the teacher told of."""
        compare = point_loss(self._loss, entropy=self._entropy)
        scale = 1.0 / self._loss.student_temperature
        # Classes are made where they are used: of one piece at a time, in the logits' type.
        return Piece(
            part,
            lambda logits: self._compared(part, logits * scale, compare),
            lambda logits, out: self._compared_out(part, logits, scale, compare, out),
        )

    def _compared(self, part: slice, logits: Tensor, compare: PointLoss) -> Tensor:
        logits = wide(logits)
        ids, log_p = self._classes(part, logits)
        return compare(log_p, student_classes(logits, ids))

    def _compared_out(
        self, part: slice, logits: Tensor, scale: float, compare: PointLoss, out: Tensor
    ) -> Tensor:
        if scale != 1.0:
            logits.mul_(scale)
        losses = class_loss_out(logits, *self._classes(part, logits), compare, out)
        if scale != 1.0:
            out.mul_(scale)
        return losses

    def _classes(self, part: slice, logits: Tensor) -> tuple[Tensor | None, Tensor]:
        batch, dtype = self._batch, logits.dtype
        if not batch.ids_QK.shape[1]:
            return None, self._whole(part).to(dtype)
        return teacher_classes(
            batch.ids_QK[part],
            batch.log_probs_QK[part].to(dtype),
            batch.tail_log_mass_Q[part].to(dtype),
            self._loss.tail,
            logits.shape[1],
        )

    def _whole(self, part: slice) -> Tensor:
        """The teacher's log-probabilities over the vocabulary, exact."""
        if self._batch.states_QD.shape[1]:
            assert self._head is not None
            return self._head.log_probs(self._batch.states_QD[part], self._loss.temperature)
        return self._batch.log_probs_QK[part].log_softmax(1)


def _token(part: slice, targets: Tensor, smoothing: float) -> Piece:
    return Piece(
        part,
        lambda logits: reference_loss(logits, targets, smoothing),
        lambda logits, out: reference_loss_out(logits, targets, smoothing, out),
    )
