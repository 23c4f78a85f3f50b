"""What the client makes of replies: checked, decoded, put together. No torch, no gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, requests
from teacher_service.errors import TeacherError, TeacherMismatch, TeacherProtocolError
from teacher_service.payloads import RowShapes, empty_arrays, result_payload


@dataclass(frozen=True)
class PartScores:
    """Decoded arrays of one request, and what came beside them.

    Attributes:
        queue_seconds, compute_seconds: of the server.
    """

    arrays: codec.Arrays
    revision: str
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True)
class ReplicaReport:
    """What one replica says of itself, or why it says nothing.

    Attributes:
        serving: its health; None where it tells none.
    """

    address: str
    info: codec.ModelInfo | None = None
    error: TeacherError | None = None
    serving: bool | None = None


class ScoreChunks:
    """The replies that answer one score request: one of ``Score``, the chunks of ``ScoreStream``.

    Args:
        kind: payload asked for.
        positions: P of the request.
        address: for messages.
    """

    def __init__(self, kind: int, positions: int, address: str) -> None:
        self._kind, self._positions, self._address = kind, positions, address
        self._arrays: list[codec.Arrays] = []
        self._received = 0
        self._last: pb.ScoreResponse | None = None

    def add_chunk(self, chunk: pb.ScoreStreamResponse) -> None:
        """The next chunk.

        Raises:
            TeacherProtocolError: a gap, an overlap, another total, or broken tensors.
        """
        if chunk.first_position != self._received or chunk.total_positions != self._positions:
            raise TeacherProtocolError(
                f"{self._address}: a chunk begins at position {chunk.first_position} of "
                f"{chunk.total_positions}, expected {self._received} of {self._positions}"
            )
        self.add(chunk.scores)

    def add(self, scores: pb.ScoreResponse) -> None:
        """The whole reply, or the scores of a chunk.

        Raises:
            TeacherProtocolError: another payload, or broken tensors.
        """
        self._arrays.append(codec.decode_scores(self._kind, scores))
        self._received += len(self._arrays[-1]["token_log_probs"])
        self._last = scores

    def whole(self) -> PartScores:
        """All of it.

        Raises:
            TeacherProtocolError: nothing came, or not all positions.
        """
        if self._last is None:
            raise TeacherProtocolError(f"{self._address}: a stream of scores without a chunk")
        arrays = requests.checked(codec.join(self._arrays), self._positions)
        timing = self._last.timing
        return PartScores(arrays, self._last.revision, timing.queue_seconds, timing.compute_seconds)


def whole_result(
    parts: Sequence[PartScores],
    kind: int,
    rows: RowShapes,
    lengths_B: np.ndarray,
    info: codec.ModelInfo,
    address: str,
) -> codec.ScoreResult:
    """The result of a call from its parts, in order.

    Args:
        kind, rows: payload asked for, and the shape of a position in it.
        lengths_B: int32 target lengths of the whole call.
        address: for messages.

    Raises:
        TeacherMismatch: the parts come from different revisions, or from another than ``info``.
        TeacherProtocolError: a log-probability is not a number, or an id not of the vocabulary.
    """
    revisions = sorted({part.revision for part in parts})
    if len(revisions) > 1:
        raise TeacherMismatch(
            f"{address}: answers of different revisions within one call ({', '.join(revisions)}); "
            "keep one revision behind an address"
        )
    if revisions and revisions[0] != info.revision:
        raise TeacherMismatch(
            f"{address}: an answer of revision {revisions[0]} where {info.revision} was asked for"
        )
    arrays = codec.join([part.arrays for part in parts] or [empty_arrays(rows)])
    _check_values(arrays, info.vocabulary_size, address)
    return codec.ScoreResult(
        lengths_B=lengths_B,
        token_log_probs_P=arrays["token_log_probs"],
        payload=result_payload(kind, arrays, rows),
        revision=revisions[0] if revisions else info.revision,
        queue_seconds=sum(part.queue_seconds for part in parts),
        compute_seconds=sum(part.compute_seconds for part in parts),
    )


def _check_values(arrays: codec.Arrays, vocabulary_size: int, address: str) -> None:
    for name, array in arrays.items():
        if not array.size:
            continue
        # The least value is one pass, and NaN where any value is.
        least = array.min()
        if np.isnan(least):
            raise TeacherProtocolError(f"{address}: {name} holds values that are not numbers")
        if name == "ids" and (least < 0 or array.max() >= vocabulary_size):
            raise TeacherProtocolError(f"{address}: ids outside the {vocabulary_size} of the model")


def hypotheses(
    reply: pb.GenerateResponse, sources: int, address: str
) -> list[list[codec.GeneratedHypothesis]]:
    """Per source its hypotheses.

    Raises:
        TeacherProtocolError: not one output a source.
    """
    if len(reply.outputs) != sources:
        raise TeacherProtocolError(f"{address}: {sources} sources, {len(reply.outputs)} outputs")
    return [
        [codec.GeneratedHypothesis(list(h.ids), h.log_prob, h.finished) for h in o.hypotheses]
        for o in reply.outputs
    ]


def check_agreement(
    address: str, info: codec.ModelInfo, other_address: str, other: codec.ModelInfo
) -> None:
    """Two replies of one teacher must describe one model.

    Raises:
        TeacherMismatch: they do not; names both.
    """
    for what in ("revision", "fingerprint"):
        first, second = getattr(info, what), getattr(other, what)
        if first != second:
            raise TeacherMismatch(
                f"the replicas of one teacher must serve one model: {address} has {what} {first}, "
                f"{other_address} has {second}; serve the same model directory at both"
            )
