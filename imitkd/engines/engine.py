"""The one interface of all engines: ids in, ids out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from seq2seq.errors import UserError
from seq2seq.modes import LengthLimit
from seq2seq.vocabulary import Vocabulary


class Engine(Protocol):
    """A loaded model.

    Attributes:
        longest_source: ids of a source at most, the end symbol included.
    """

    vocabulary: Vocabulary
    longest_source: int

    def write(self, sources: Sequence[list[int]], beam: int = 1) -> list[list[int]]:
        """The best target of each encoder input, in order; the end symbol where it was written.

        Args:
            beam: its size; 1 is greedy.

        Raises:
            UserError: the engine has no beam search.
        """


def target_limits(sources: Sequence[list[int]], limit: LengthLimit, cap: int) -> list[int]:
    """The longest target of each source, in ids."""
    return [min(limit.of(len(source)), cap) for source in sources]


def cpu_only(device: str) -> None:
    """Refuse another device.

    Raises:
        UserError: ``device`` is no CPU.
    """
    if device != "cpu":
        raise UserError(
            f"this export runs on CPUs, not on {device!r}; leave the device out, or translate with "
            "the model directory it was made of"
        )
