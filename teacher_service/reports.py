"""What the parts of a server tell of what they did, for whoever counts it. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchReport:
    """What a batch was, or what was dropped instead of being computed.

    Attributes:
        ends: number of sequences by what became of them: ``computed``; ``failed`` in the model;
            ``dropped`` without being computed, because the call was given up or its time was up.
        queue_seconds: one for each request in the batch: from admission until the model took it.
        compute_seconds: of the model.
        sequences, real_tokens, padded_tokens: what the model was given; 0 where nothing was.
    """

    lane: str
    ends: Mapping[str, int]
    queue_seconds: Sequence[float] = ()
    compute_seconds: float = 0.0
    sequences: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0


@dataclass(frozen=True)
class CallReport:
    """A call that has ended.

    Attributes:
        method: name of the contract's method; ``other`` for any other service's.
        mode: payload kind or decoding, where the method has such a thing.
        code: name of the gRPC status.
        seconds: from the arrival of the whole request to the status.
        error: what ended it instead of a reply.
    """

    method: str
    mode: str
    code: str
    seconds: float
    error: Exception | None = None
