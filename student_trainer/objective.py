"""Loss and gradients of one batch, with never more than a chunk of logits in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq.batch import decoder_inputs
from seq2seq.model import Seq2SeqModel
from student_trainer.assembly import TrainingBatch
from student_trainer.config import LossConfig, Precision
from student_trainer.methods import Method
from student_trainer.pieces import Piece, pieces
from student_trainer.teacher_head import TeacherHead

CHUNK_POSITIONS = 1024


def backward(
    model: Seq2SeqModel,
    batch: TrainingBatch,
    method: Method,
    loss: LossConfig,
    chunk: int = CHUNK_POSITIONS,
    *,
    positions: int | None = None,
    precision: Precision = "fp32",
    fused: bool = True,
    head: TeacherHead | None = None,
) -> float:
    """Add the gradients of the batch's mean loss to the model's parameters; return that loss.

    The output projection runs on real positions only. Each chunk's loss is differentiated down to
    the hidden states at once, then the sum flows through decoder and encoder.

    Args:
        positions: what the sum of the losses is divided by, where this is a part of a larger batch;
            its own positions otherwise.
        precision: ``bf16`` for the products of forward and backward; losses, gradients of
            parameters and the parameters themselves stay float32.
        fused: gradients of the losses from :mod:`student_trainer.fused_losses`; else from autograd,
            which gives the same and costs more.
        head: makes distributions of the states of payload HIDDEN.
    """
    count = positions or batch.positions
    if not batch.positions:
        return 0.0
    narrow = precision == "bf16"
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=narrow):
        encoded = model.encode(batch.source_BS, batch.source_lengths_B)
        hidden_BTD = model.decode(encoded, decoder_inputs(batch.target_BT, model.config.start_id))
    hidden_PD = hidden_BTD.flatten(0, 1).index_select(0, batch.index_P)
    if narrow:
        hidden_PD = hidden_PD.bfloat16()
    gradient_PD = torch.empty_like(hidden_PD)
    total = torch.zeros((), dtype=torch.float64, device=hidden_PD.device)
    differentiate = _Fused(model, hidden_PD, chunk) if fused else _Autograd(model)
    for piece in pieces(batch, method, loss, chunk, head):
        part = piece.part
        total += differentiate(hidden_PD[part], piece, 1 / count, gradient_PD[part]).sum().double()
    hidden_PD.backward(gradient_PD)
    return float(total) / count


class _Autograd:
    """Losses of a piece; its gradients by autograd."""

    def __init__(self, model: Seq2SeqModel) -> None:
        self._model = model

    def __call__(self, hidden_ND: Tensor, piece: Piece, scale: float, out_ND: Tensor) -> Tensor:
        hidden: Tensor = hidden_ND.detach().requires_grad_()
        weight, bias = self._model.output_projection()
        logits = (hidden @ weight.to(hidden.dtype).t()).to(bias.dtype) + bias
        losses = piece.losses(logits)
        (losses.sum() * scale).backward()
        assert hidden.grad is not None
        out_ND.copy_(hidden.grad)
        return losses.detach()


class _Fused:
    """The same without a graph; logits and their gradient live in two buffers for all pieces."""

    def __init__(self, model: Seq2SeqModel, hidden_PD: Tensor, chunk: int) -> None:
        self._weight, self._bias = model.output_projection()
        for parameter in (self._weight, self._bias):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # Mixed precision: products in the hidden states' type, losses in float32.
        self._narrow = self._weight.detach().to(hidden_PD.dtype)
        shape = min(chunk, len(hidden_PD)), len(self._bias)
        self._logits = self._bias.new_empty(shape, requires_grad=False)
        self._slope = torch.empty_like(self._logits)

    @torch.no_grad()
    def __call__(self, hidden_ND: Tensor, piece: Piece, scale: float, out_ND: Tensor) -> Tensor:
        count = len(hidden_ND)
        logits, slope = self._logits[:count], self._slope[:count]
        if logits.dtype == hidden_ND.dtype:
            torch.addmm(self._bias, hidden_ND, self._narrow.t(), out=logits)
        else:
            logits.copy_(hidden_ND @ self._narrow.t()).add_(self._bias)
        losses = piece.losses_out(logits, slope)
        assert self._weight.grad is not None and self._bias.grad is not None
        self._bias.grad.add_(slope.sum(0), alpha=scale)
        slope = slope.to(hidden_ND.dtype)
        if slope.dtype == self._weight.grad.dtype:
            self._weight.grad.addmm_(slope.t(), hidden_ND, alpha=scale)
        else:
            self._weight.grad.add_(slope.t() @ hidden_ND, alpha=scale)
        torch.mm(slope, self._narrow, out=out_ND)
        out_ND.mul_(scale)
        return losses
