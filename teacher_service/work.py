"""Plain descriptions of work for a model, and what a model behind the service does. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teacher_service.codec import Arrays, Beam, GeneratedHypothesis, Greedy, Sample


@dataclass(frozen=True)
class ScoreChoice:
    """What is computed for a sequence; sequences of equal choices share batches.

    Attributes:
        kind, dtype: enum values of the contract.
        k: TOP_K only.
    """

    kind: int
    dtype: int
    temperature: float = 1.0
    k: int = 0


@dataclass(frozen=True)
class ScoreItem:
    """One checked (source, target) pair."""

    source: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True)
class GenerateChoice:
    """How targets are written; sources of equal choices share batches."""

    mode: Greedy | Sample | Beam
    ratio: float
    offset: int
    cap: int

    @property
    def beams(self) -> int:
        """Hypotheses decoded side by side for one source."""
        return self.mode.size if isinstance(self.mode, Beam) else 1

    def limit(self, source_length: int) -> int:
        """Most target ids for a source of that many ids."""
        return max(1, min(int(self.ratio * source_length) + self.offset, self.cap))


@dataclass(frozen=True)
class GenerateItem:
    """One checked source with its forced prefix and its stream of random numbers."""

    source: Sequence[int]
    prefix: Sequence[int]
    key: int


@dataclass(frozen=True)
class Identity:
    """What a teacher is: the part of ``ModelInfo`` that comes from the model.

    Attributes:
        source_tail: ids that its tokenizer puts behind the end symbol of a source (mBART's language
            code); all others end with it.
    """

    name: str
    revision: str
    fingerprint: str
    vocabulary_size: int
    pad_id: int
    eos_id: int
    unk_id: int
    start_ids: tuple[int, ...]
    max_source_length: int
    max_target_length: int
    hidden_size: int
    parameters: int
    source_tail: int = 0


class Backend(Protocol):
    """A model behind the service; its methods are called by one thread at a time."""

    identity: Identity

    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> list[Arrays]:
        """Arrays of each item in wire dtypes, named as in ``codec.TENSORS``."""

    def generate(
        self, choice: GenerateChoice, items: Sequence[GenerateItem]
    ) -> list[list[GeneratedHypothesis]]:
        """Hypotheses of each item, best first."""

    def artifact(self, kind: int) -> Mapping[str, Path]:
        """Files of an artefact by relative name; empty where it is not offered."""

    def warm_up(self, batch_tokens: int) -> None:
        """Compute something of full size, so that no caller pays for first use."""
