"""Protobuf messages to numpy arrays and back, for both sides of the wire. No torch, no gRPC.

Letters: B sequences, T target length, V vocabulary, K candidates, P packed positions (all target
positions of all sequences laid end to end).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.errors import TeacherProtocolError
from teacher_service.payloads import (
    FLOATS,
    TENSORS,
    Argmax,
    ArgmaxSpec,
    Arrays,
    Candidates,
    CandidatesSpec,
    FloatName,
    Full,
    FullSpec,
    Hidden,
    HiddenSpec,
    Payload,
    PayloadRequest,
    TopK,
    TopKSpec,
    decoded_dtype,
)

# Payloads are asked for and handed out under this module's name.
__all__ = [
    "Argmax",
    "ArgmaxSpec",
    "Arrays",
    "Beam",
    "Candidates",
    "CandidatesSpec",
    "FloatName",
    "Full",
    "FullSpec",
    "GeneratedHypothesis",
    "Greedy",
    "Hidden",
    "HiddenSpec",
    "LengthLimit",
    "ModelInfo",
    "Payload",
    "PayloadRequest",
    "Sample",
    "ScoreResult",
    "TopK",
    "TopKSpec",
    "decode_model_info",
    "decode_scores",
    "decode_tensor",
    "encode_scores",
    "encode_tensor",
    "join",
]

_NUMPY: Mapping[int, np.dtype] = {
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_UINT16: np.dtype("<u2"),
    pb.DATA_TYPE_UINT32: np.dtype("<u4"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
}
_WIRE = {dtype: code for code, dtype in _NUMPY.items()}


@dataclass(frozen=True)
class ScoreResult:
    """The teacher's distributions along some targets.

    Attributes:
        lengths_B: int32 target lengths; they sum to P.
        token_log_probs_P: float32 log-probability of each actual target token.
        payload: what was asked for.
        revision: of the model that computed this.
        queue_seconds: time in the server's queue (summed over requests).
        compute_seconds: time of the forward passes that held these sequences (summed).
    """

    lengths_B: np.ndarray
    token_log_probs_P: np.ndarray
    payload: Payload
    revision: str
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True)
class Greedy:
    """Always the likeliest next id."""


@dataclass(frozen=True)
class Sample:
    """A draw from the ``top_k`` likeliest (0: from all) at ``temperature``."""

    top_k: int = 0
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Beam:
    """Beam search ranked by ``log_prob / length ** length_penalty``."""

    size: int = 5
    n_best: int = 1
    length_penalty: float = 1.0


@dataclass(frozen=True)
class LengthLimit:
    """At most ``min(floor(ratio * S) + offset, cap)`` target ids; None leaves it to the server."""

    ratio: float | None = None
    offset: int | None = None
    cap: int | None = None


@dataclass(frozen=True)
class GeneratedHypothesis:
    """Target ids (prefix included, start symbol not), natural-log probability, end written."""

    ids: list[int]
    log_prob: float
    finished: bool


@dataclass(frozen=True)
class ModelInfo:
    """``teacher.v1.ModelInfo`` in plain types; see the contract for the meaning of each field."""

    name: str
    revision: str
    vocabulary_size: int
    fingerprint: str
    pad_id: int
    eos_id: int
    unk_id: int
    start_ids: tuple[int, ...]
    max_source_length: int
    max_target_length: int
    payloads: Mapping[str, tuple[str, ...]]
    artifacts: tuple[str, ...]
    batch_token_budget: int
    max_request_sequences: int
    max_request_tokens: int
    max_request_bytes: int
    max_unary_reply_bytes: int
    max_stream_reply_bytes: int
    hidden_size: int
    parameters: int


def encode_tensor(array: np.ndarray) -> pb.Tensor:
    """One contiguous little-endian blob with its shape.

    Raises:
        KeyError: the array's dtype has no code in the contract.
    """
    message = pb.Tensor()
    _fill(message, array)
    return message


def decode_tensor(message: pb.Tensor, name: str) -> np.ndarray:
    """The array of a blob, read-only, in its wire dtype.

    Raises:
        TeacherProtocolError: unknown dtype, or shape and size disagree.
    """
    dtype = _NUMPY.get(message.dtype)
    if dtype is None:
        raise TeacherProtocolError(
            f"tensor {name} has the unknown dtype {message.dtype}; update the client"
        )
    shape = tuple(message.shape)
    data = message.data  # read once: every access copies the whole blob
    expected = dtype.itemsize
    for extent in shape:
        expected *= extent
    if len(data) != expected:
        raise TeacherProtocolError(
            f"tensor {name} of shape {shape} and dtype {dtype.name} has {len(data)} bytes, "
            f"expected {expected}"
        )
    try:
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except (ValueError, OverflowError) as error:  # an empty tensor may claim any extents
        raise TeacherProtocolError(f"tensor {name} of shape {shape}: {error}") from error


def encode_scores(kind: int, arrays: Arrays, revision: str) -> pb.ScoreResponse:
    """A reply from arrays named as in :data:`TENSORS`, already in their wire dtypes."""
    field, names = TENSORS[kind]
    reply = pb.ScoreResponse(revision=revision)
    _fill(reply.token_log_probs, arrays["token_log_probs"])
    payload = getattr(reply, field)
    payload.SetInParent()
    for name in names:
        _fill(getattr(payload, name), arrays[name])
    return reply


def decode_scores(kind: int, reply: pb.ScoreResponse) -> Arrays:
    """The arrays of a reply (or of one chunk), floats as float32 and ids as int32.

    Raises:
        TeacherProtocolError: another payload than ``kind`` came back, a tensor is broken or of a
            wrong dtype, or the tensors disagree about the number of positions.
    """
    field, names = TENSORS[kind]
    if reply.WhichOneof("payload") != field:
        raise TeacherProtocolError(
            f"asked for payload {field!r} but got {reply.WhichOneof('payload')!r}"
        )
    payload = getattr(reply, field)
    arrays = {"token_log_probs": decode_tensor(reply.token_log_probs, "token_log_probs")}
    for name in names:
        arrays[name] = decode_tensor(getattr(payload, name), f"{field}.{name}")
    wrong = {n: a.dtype.name for n, a in arrays.items() if (a.dtype.kind == "f") == (n == "ids")}
    if wrong:
        raise TeacherProtocolError(f"tensors of the wrong dtype: {wrong}")
    positions = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(positions.values())) != 1 or None in positions.values():
        raise TeacherProtocolError(f"tensors disagree about the number of positions: {positions}")
    return {name: array.astype(decoded_dtype(name)) for name, array in arrays.items()}


def join(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate arrays of the same names along the positions; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def decode_model_info(info: pb.ModelInfo) -> ModelInfo:
    """Plain types from the message; offers that this client does not know are left out."""
    plain = {
        field.name: getattr(info, field.name)
        for field in info.DESCRIPTOR.fields
        if field.name not in ("start_ids", "payloads", "artifacts")
    }
    floats = {code: name for name, code in FLOATS.items()}
    offers = {
        _short(pb.PayloadKind.Name(offer.kind)): tuple(
            floats[d] for d in offer.dtypes if d in floats
        )
        for offer in info.payloads
        if offer.kind in pb.PayloadKind.values()
    }
    artifacts = tuple(
        _short(pb.ArtifactKind.Name(kind))
        for kind in info.artifacts
        if kind in pb.ArtifactKind.values()
    )
    return ModelInfo(start_ids=tuple(info.start_ids), payloads=offers, artifacts=artifacts, **plain)


def _fill(message: pb.Tensor, array: np.ndarray) -> None:
    """Write an array into an empty message, in place: messages put together later are copied."""
    dtype = array.dtype.newbyteorder("<")
    message.dtype = pb.DataType.Name(_WIRE[dtype])
    message.shape.extend(array.shape)
    message.data = np.ascontiguousarray(array, dtype=dtype).tobytes()


def _short(enum_name: str) -> str:
    """``PAYLOAD_KIND_TOP_K`` -> ``top_k``."""
    return enum_name.split("_KIND_", 1)[1].lower()
