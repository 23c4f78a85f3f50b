"""Ways to decode, limits, and what a decoder is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # limits are read where torch need not be
    from seq2seq.batch import Ids

# What a decoder finds for a source: ids, log-probability, whether the end symbol was written.
Found = tuple[list[int], float, bool]


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every position."""


@dataclass(frozen=True)
class Sample:
    """A token drawn from the ``top_k`` most probable (0: from all), at ``temperature``."""

    top_k: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (all) or positive")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} must be positive")


@dataclass(frozen=True)
class Beam:
    """Beam search; hypotheses are ranked by ``log_prob / length ** length_penalty``.

    Attributes:
        exact: search on until no live hypothesis could still win by growing longer; it seldom
            changes the result and costs about 1.4 times as much as judging by present length.
    """

    size: int = 5
    n_best: int = 1
    length_penalty: float = 1.0
    exact: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"beam size {self.size} must be at least 1")
        if not 1 <= self.n_best <= self.size:
            raise ValueError(
                f"n_best {self.n_best} must be between 1 and the beam size {self.size}"
            )


@dataclass(frozen=True)
class LengthLimit:
    """At most ``min(floor(ratio * S) + offset, cap)`` target ids, the end symbol included."""

    ratio: float = 2.0
    offset: int = 10
    cap: int = 256

    def of(self, source_length: int) -> int:
        """The limit for one source of ``source_length`` ids."""
        return max(1, min(int(self.ratio * source_length) + self.offset, self.cap))


class Unwanted(Exception):
    """Decoding was given up: whoever asked has gone."""


@dataclass(frozen=True)
class Job:
    """Sources on their way through a decoder; ``limits``, ``prefixes`` and ``keys`` by row.

    Attributes:
        wanted: asked before every step; the decoder raises :class:`Unwanted` where it says no.
    """

    sources: list[Ids]
    limits: list[int]
    prefixes: list[Ids]
    keys: list[int] = field(default_factory=list)
    log_probs: bool = True
    wanted: Callable[[], bool] = lambda: True

    def require_wanted(self) -> None:
        """Raises Unwanted: nobody waits for the rest."""
        if not self.wanted():
            raise Unwanted("nobody waits for what is being written")
