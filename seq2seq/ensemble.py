"""Several models of one vocabulary as one: the mean of their distributions.

    p(y | prefix, source) = 1/M * sum over m of p_m(y | prefix, source)

The mixture is the model: its logits are log p, so a temperature tempers the mixture, not its
members, and decoding writes with the mixture at every step. Hidden states are those of the members
side by side; there is no single output projection for them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from seq2seq.checkpoint import ModelDirectory
from seq2seq.errors import UserError
from seq2seq.model import DecoderState, EncoderOutput, Seq2SeqModel


@dataclass(frozen=True)
class EnsembleConfig:
    """What the members have in common; ``d_model`` is the sum of their widths."""

    vocab_size: int
    d_model: int
    max_source_length: int
    max_target_length: int
    pad_id: int
    eos_id: int
    start_id: int


class Ensemble(Seq2SeqModel):
    """Two or more models that share ids and start symbols; D is the sum of their widths."""

    config: EnsembleConfig

    def __init__(self, members: Sequence[Seq2SeqModel]) -> None:
        """Join models; that they fit is for :func:`join` to check."""
        super().__init__()
        self.members = nn.ModuleList(members)
        configs = [member.config for member in members]
        self.config = EnsembleConfig(
            vocab_size=configs[0].vocab_size,
            d_model=sum(c.d_model for c in configs),
            max_source_length=min(c.max_source_length for c in configs),
            max_target_length=min(c.max_target_length for c in configs),
            pad_id=configs[0].pad_id,
            eos_id=configs[0].eos_id,
            start_id=configs[0].start_id,
        )
        self._widths = [c.d_model for c in configs]

    def _members(self) -> Sequence[Seq2SeqModel]:
        return cast(Sequence[Seq2SeqModel], self.members)

    @property
    def start_ids(self) -> tuple[int, ...]:
        return self._members()[0].start_ids

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EncoderOutput:
        states = [member.encode(source_BS, lengths_B).states_BSD for member in self._members()]
        return EncoderOutput(torch.cat(states, dim=-1), lengths_B)

    def decode(self, encoded: EncoderOutput, inputs_BT: Tensor) -> Tensor:
        parts = zip(self._members(), self._split(encoded), strict=True)
        return torch.cat([member.decode(part, inputs_BT) for member, part in parts], dim=-1)

    def decode_real(self, encoded: EncoderOutput, inputs_BT: Tensor, lengths_B: Tensor) -> Tensor:
        parts = zip(self._members(), self._split(encoded), strict=True)
        found = [member.decode_real(part, inputs_BT, lengths_B) for member, part in parts]
        return torch.cat(found, dim=-1)

    def project(self, hidden: Tensor) -> Tensor:
        """``log p [..., V]``, float32."""
        total: Tensor | None = None
        for member, part in zip(self._members(), hidden.split(self._widths, dim=-1), strict=True):
            log_probs = member.project(part).float().log_softmax(-1)
            total = log_probs if total is None else torch.logaddexp(total, log_probs)
        assert total is not None
        return total - math.log(len(self._widths))

    def output_projection(self) -> tuple[Tensor, Tensor]:
        """There is none.

        Raises:
            NotImplementedError: always; see ``has_output_projection``.
        """
        raise NotImplementedError("a mixture of distributions is no projection of one state")

    @property
    def has_output_projection(self) -> bool:
        return False

    def start(self, encoded: EncoderOutput, beams: int = 1) -> EnsembleState:
        parts = zip(self._members(), self._split(encoded), strict=True)
        return EnsembleState([member.start(part, beams) for member, part in parts])

    def step(self, tokens_N: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, EnsembleState)
        parts = zip(self._members(), state.members, strict=True)
        return torch.cat([member.step(tokens_N, part) for member, part in parts], dim=-1)

    def _split(self, encoded: EncoderOutput) -> list[EncoderOutput]:
        parts = encoded.states_BSD.split(self._widths, dim=-1)
        return [EncoderOutput(part, encoded.lengths_B) for part in parts]


class EnsembleState(DecoderState):
    """What each member remembers of the same hypotheses."""

    def __init__(self, members: Sequence[DecoderState]) -> None:
        self.members, self.beams = list(members), members[0].beams

    @property
    def position(self) -> int:  # type: ignore[override]
        return self.members[0].position

    def extend(self, other: DecoderState) -> None:
        assert isinstance(other, EnsembleState)
        for mine, theirs in zip(self.members, other.members, strict=True):
            mine.extend(theirs)

    def keep_sources(self, index_B: Tensor) -> None:
        for member in self.members:
            member.keep_sources(index_B)

    def reorder(self, index_N: Tensor) -> None:
        for member in self.members:
            member.reorder(index_N)


def join(directories: Sequence[ModelDirectory]) -> ModelDirectory:
    """One directory's content as it is, several as their ensemble.

    Raises:
        UserError: the members have not the same vocabulary or start symbols.
    """
    first, *rest = directories
    if not rest:
        return first
    for other in rest:
        if other.vocabulary.fingerprint != first.vocabulary.fingerprint:
            raise UserError(
                f"{first.path} and {other.path} have different vocabularies "
                f"({first.vocabulary.fingerprint}, {other.vocabulary.fingerprint}); an ensemble "
                "needs models of one vocabulary"
            )
        if other.model.start_ids != first.model.start_ids:
            raise UserError(
                f"{first.path} and {other.path} begin targets with different ids "
                f"({first.model.start_ids}, {other.model.start_ids}); serve them apart"
            )
    return ModelDirectory(
        first.path,
        Ensemble([directory.model for directory in directories]).eval(),
        first.vocabulary,
        ensemble_revision([directory.revision for directory in directories]),
        " + ".join(directory.name for directory in directories),
    )


def ensemble_revision(revisions: Sequence[str]) -> str:
    """The hash of the members' revisions, whatever their order; of one model, its own."""
    if len(revisions) == 1:
        return revisions[0]
    digest = hashlib.sha256("\n".join(["ensemble", *sorted(revisions)]).encode()).hexdigest()
    return f"sha256:{digest}"
