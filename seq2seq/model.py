"""The one interface that Transformer and recurrent sequence-to-sequence models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from seq2seq.batch import packed_index
from seq2seq.dropout import DropoutSource
from seq2seq.errors import UserError


@dataclass(frozen=True)
class EncoderOutput:
    """What the decoder attends to.

    Attributes:
        states_BSD: encoder states; rows past a length are undefined.
        lengths_B: int64 real source lengths.
    """

    states_BSD: Tensor
    lengths_B: Tensor


class DecoderState(ABC):
    """Everything an incremental decoder remembers between two steps.

    ``N = B * beams`` hypotheses are decoded side by side; hypothesis ``n`` belongs to source
    ``n // beams``. The one that has read most has read ``position`` tokens.
    """

    position: int
    beams: int

    @abstractmethod
    def extend(self, other: DecoderState) -> None:
        """Take in the sources of another state of the same model and number of beams, behind one's
        own; each hypothesis goes on from its own position."""

    @abstractmethod
    def keep_sources(self, index_B: Tensor) -> None:
        """Keep only these sources (int64, ascending, at least one) with all their hypotheses."""

    @abstractmethod
    def reorder(self, index_N: Tensor) -> None:
        """Hypothesis n continues from what hypothesis ``index_N[n]`` (same source) has read."""


class Seq2SeqModel(nn.Module, ABC):
    """An autoregressive model of p(target | source).

    Attributes:
        config: has ``vocab_size``, ``d_model``, ``max_source_length``, ``max_target_length``,
            ``pad_id``, ``eos_id`` and ``start_id``, the last id read before the first target.
        dropout_source: shared by all dropout layers; call ``begin_step`` before a training step.
    """

    config: Any
    dropout_source: DropoutSource

    @abstractmethod
    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EncoderOutput:
        """Run the encoder over padded source ids (int64)."""

    @abstractmethod
    def decode(self, encoded: EncoderOutput, inputs_BT: Tensor) -> Tensor:
        """Hidden states ``[B, T, D]`` for teacher-forced inputs that begin with ``start_id``.

        What a model reads before it (see ``start_ids``) it adds by itself, here and in ``start``.
        """

    def decode_real(self, encoded: EncoderOutput, inputs_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states ``[P, D]`` of the first ``lengths_B`` (int64) positions of each row.

        As :meth:`decode` gives them, row by row; a model may leave out the work on the others.
        """
        hidden_BTD = self.decode(encoded, inputs_BT)
        index_P = packed_index(lengths_B, inputs_BT.shape[1])
        return hidden_BTD.flatten(0, 1).index_select(0, index_P)

    @abstractmethod
    def output_projection(self) -> tuple[Tensor, Tensor]:
        """Weight ``[V, D]`` and bias ``[V]`` that make logits of hidden states."""

    @property
    def has_output_projection(self) -> bool:
        """Whether one matrix makes logits of hidden states; an ensemble has none."""
        return True

    def project(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., D]``."""
        return functional.linear(hidden, *self.output_projection())

    @abstractmethod
    def start(self, encoded: EncoderOutput, beams: int = 1) -> DecoderState:
        """A state that has read nothing, for ``beams`` hypotheses of each source."""

    @abstractmethod
    def step(self, tokens_N: Tensor, state: DecoderState) -> Tensor:
        """Read one token (int64) per hypothesis; hidden ``[N, D]``. Advances ``state`` in place."""

    def forward(self, source_BS: Tensor, lengths_B: Tensor, inputs_BT: Tensor) -> Tensor:
        """Full-prefix logits ``[B, T, V]``: row t is the distribution after inputs[: t + 1]."""
        return self.project(self.decode(self.encode(source_BS, lengths_B), inputs_BT))

    @property
    def start_ids(self) -> tuple[int, ...]:
        """All that is read before the first target: start symbol and any forced prefix.

        The last of them is ``config.start_id``.
        """
        return (self.config.start_id,)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def parameter_count(self) -> int:
        """Number of trained numbers; shared ones count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def forbid_special(scores: Tensor, config: Any) -> None:
    """Make pad and start impossible ``[N, V]``, in place: neither is ever a target.

    A start symbol that is the end symbol as well (BART) can be written, as the end.
    """
    scores[:, config.pad_id] = -torch.inf
    if config.start_id != config.eos_id:
        scores[:, config.start_id] = -torch.inf


def build_model(config: dict[str, Any]) -> Seq2SeqModel:
    """A randomly initialised model from a plain configuration (``kind`` chooses the class).

    Raises:
        UserError: unknown kind, unknown key or value out of range.
    """
    from seq2seq.recurrent import Recurrent, RecurrentConfig
    from seq2seq.stacked import Stacked, StackedConfig
    from seq2seq.transformer import Transformer, TransformerConfig

    kind = config.get("kind")
    try:
        if kind == "transformer":
            return Transformer(TransformerConfig(**config))
        if kind == "recurrent":
            return Recurrent(RecurrentConfig(**config))
        if kind == "stacked":
            return Stacked(StackedConfig(**config))
    except ValidationError as error:
        raise UserError(f"model configuration: {describe(error)}") from error
    raise UserError(f"unknown model kind {kind!r}; known kinds: transformer, recurrent, stacked")


def describe(error: ValidationError) -> str:
    """All faults of a validation error on one line: where, what, and the value given."""
    parts = []
    for fault in error.errors():
        where = ".".join(str(p) for p in fault["loc"]) or "configuration"
        if fault["type"] == "extra_forbidden":
            parts.append(f"unknown key {where!r} (remove it or check its spelling)")
        elif fault["type"] == "missing":
            parts.append(f"{where!r} is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = fault["input"]
            given = "" if isinstance(shown, dict) else f" (given {shown!r})"
            parts.append(f"{where}: {message}{given}")
    return "; ".join(parts)
