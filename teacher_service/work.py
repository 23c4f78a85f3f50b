"""Plain descriptions of work for a model, and what a model behind the service does. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from teacher_service.codec import Arrays, Beam, GeneratedHypothesis, Greedy, Sample
from teacher_service.payloads import TENSORS


@dataclass(frozen=True)
class ScoreChoice:
    """What is computed for a sequence; sequences of equal choices share batches.

    Attributes:
        kind, dtype: enum values of the contract.
        k: ids a position: the likeliest (TOP_K) or each item's own (CANDIDATES); else 0.
    """

    kind: int
    dtype: int
    temperature: float = 1.0
    k: int = 0


@dataclass(frozen=True)
class ScoreItem:
    """One checked (source, target) pair.

    Attributes:
        candidates: CANDIDATES only: ids [T, K] in the dtype they came in.
    """

    source: Sequence[int]
    target: Sequence[int]
    candidates: np.ndarray | None = None


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
        payloads, artifacts: enum values of what it offers.
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
    payloads: tuple[int, ...] = tuple(TENSORS)
    artifacts: tuple[int, ...] = ()


class Backend(Protocol):
    """A model behind the service; one thread at a time computes with it.

    ``artifact`` alone may be called beside a computation, from another thread. One that keeps
    encoder states may have ``encoder_cache``, a ``caches.ByteCache``.
    """

    identity: Identity

    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> list[Arrays]:
        """Arrays of each item in wire dtypes, named as in ``payloads.TENSORS``."""

    def generate(
        self,
        choice: GenerateChoice,
        items: Sequence[GenerateItem],
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[list[GeneratedHypothesis]]:
        """Hypotheses of each item, best first.

        Args:
            wanted: whether anybody still waits for one of them; where not, it may raise anything
                instead of going on for many steps.
        """

    def artifact(self, kind: int) -> Mapping[str, bytes]:
        """Files of one of ``identity.artifacts`` by their relative names, read or made anew."""

    def warm_up(self, batch_tokens: int) -> None:
        """Compute something of full size, so that no caller pays for first use."""
