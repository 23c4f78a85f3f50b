"""Loss and gradients of one batch, with never more than a chunk of logits in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq.batch import decoder_inputs, packed_index
from seq2seq.model import Seq2SeqModel
from student_trainer.assembly import TrainingBatch
from student_trainer.config import LossConfig, Method
from student_trainer.losses import full_loss_top_k, reference_loss

CHUNK_POSITIONS = 1024


def backward(
    model: Seq2SeqModel,
    batch: TrainingBatch,
    method: Method,
    loss: LossConfig,
    chunk: int = CHUNK_POSITIONS,
) -> float:
    """Add the gradients of the batch's mean loss to the model's parameters; return that loss.

    The output projection runs on real positions only. Each chunk's loss is differentiated down to
    the hidden states at once, then the sum flows through decoder and encoder.
    """
    encoded = model.encode(batch.source_BS, batch.source_lengths_B)
    inputs = decoder_inputs(batch.target_BT, model.config.start_id)
    hidden_BTD = model.decode(encoded, inputs)
    index = packed_index(batch.target_lengths_B, inputs.shape[1])
    hidden_PD = hidden_BTD.flatten(0, 1).index_select(0, index)
    row_of_P = _rows_of_labels(batch)
    gradients, total = [], torch.zeros((), dtype=torch.float64)
    for begin in range(0, batch.positions, chunk):
        part = slice(begin, min(begin + chunk, batch.positions))
        hidden = hidden_PD[part].detach().requires_grad_()
        losses = _losses(model.project(hidden), batch, part, row_of_P[part], method, loss)
        (losses.sum() / batch.positions).backward()
        assert hidden.grad is not None
        gradients.append(hidden.grad)
        total += losses.detach().sum().double().cpu()
    hidden_PD.backward(torch.cat(gradients))
    return float(total) / batch.positions


def _rows_of_labels(batch: TrainingBatch) -> Tensor:
    """int64 ``[P]``: the row of the teacher's labels at each position, -1 where it has none."""
    rows = torch.full_like(batch.target_P, -1)
    rows[batch.scored_Q] = torch.arange(len(batch.scored_Q), device=rows.device)
    return rows


def _losses(
    logits: Tensor,
    batch: TrainingBatch,
    part: slice,
    rows: Tensor,
    method: Method,
    loss: LossConfig,
) -> Tensor:
    """Per-position losses of one chunk, scored positions first."""
    scored = rows >= 0
    if not bool(scored.any()):
        return reference_loss(logits, batch.target_P[part], loss.label_smoothing)
    if bool(scored.all()):
        return _teacher_losses(logits, batch, rows, method, loss)
    targets = batch.target_P[part][~scored]
    return torch.cat(
        [
            _teacher_losses(logits[scored], batch, rows[scored], method, loss),
            reference_loss(logits[~scored], targets, loss.label_smoothing),
        ]
    )


def _teacher_losses(
    logits: Tensor, batch: TrainingBatch, rows: Tensor, method: Method, loss: LossConfig
) -> Tensor:
    """L_opt under ``imitkd``, L_full over the candidates elsewhere."""
    if method == "imitkd":
        return reference_loss(logits, batch.ids_QK[rows, 0])
    labels = batch.ids_QK[rows], batch.log_probs_QK[rows], batch.tail_log_mass_Q[rows]
    return full_loss_top_k(logits, *labels, loss.tail)
