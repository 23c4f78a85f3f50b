"""Protobuf messages to numpy arrays and back, for both sides of the wire. No torch, no gRPC.

Letters: B sequences, T target length, V vocabulary, K candidates, P packed positions (all target
positions of all sequences laid end to end).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.errors import TeacherProtocolError

Arrays = dict[str, np.ndarray]
FloatName = Literal["float16", "float32"]

FLOATS: Mapping[str, pb.DataType] = {
    "float16": pb.DATA_TYPE_FLOAT16,
    "float32": pb.DATA_TYPE_FLOAT32,
}
_NUMPY: Mapping[int, np.dtype] = {
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_UINT16: np.dtype("<u2"),
    pb.DATA_TYPE_UINT32: np.dtype("<u4"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
}
_WIRE = {dtype: code for code, dtype in _NUMPY.items()}

# The tensors of each payload message besides token_log_probs, and the message's name in the oneof.
TENSORS: Mapping[int, tuple[str, tuple[str, ...]]] = {
    pb.PAYLOAD_KIND_ARGMAX: ("argmax", ("ids", "log_probs")),
    pb.PAYLOAD_KIND_TOP_K: ("top_k", ("ids", "log_probs", "tail_log_mass")),
    pb.PAYLOAD_KIND_FULL: ("full", ("log_probs",)),
}


@dataclass(frozen=True)
class ArgmaxSpec:
    """Ask for the likeliest id and its log-probability (``PAYLOAD_KIND_ARGMAX``)."""

    dtype: FloatName = "float16"


@dataclass(frozen=True)
class TopKSpec:
    """Ask for the ``k`` likeliest ids and the mass of the rest (``PAYLOAD_KIND_TOP_K``)."""

    k: int = 64
    dtype: FloatName = "float16"


@dataclass(frozen=True)
class FullSpec:
    """Ask for the whole distribution (``PAYLOAD_KIND_FULL``); travels in chunks."""

    dtype: FloatName = "float16"


PayloadRequest = ArgmaxSpec | TopKSpec | FullSpec


@dataclass(frozen=True)
class Argmax:
    """``ids_P`` int32, ``log_probs_P`` float32."""

    ids_P: np.ndarray
    log_probs_P: np.ndarray


@dataclass(frozen=True)
class TopK:
    """``ids_PK`` int32, ``log_probs_PK`` float32 (likeliest first), ``tail_log_mass_P`` float32.

    K is ``min(k, V)``; the tail may be -inf.
    """

    ids_PK: np.ndarray
    log_probs_PK: np.ndarray
    tail_log_mass_P: np.ndarray


@dataclass(frozen=True)
class Full:
    """``log_probs_PV`` float32."""

    log_probs_PV: np.ndarray


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
    payload: Argmax | TopK | Full
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
    dtype = array.dtype.newbyteorder("<")
    data = np.ascontiguousarray(array, dtype=dtype).tobytes()
    return pb.Tensor(dtype=pb.DataType.Name(_WIRE[dtype]), shape=array.shape, data=data)


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
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def encode_scores(kind: int, arrays: Arrays, revision: str) -> pb.ScoreResponse:
    """A reply from arrays named as in :data:`TENSORS`, already in their wire dtypes."""
    field, names = TENSORS[kind]
    reply = pb.ScoreResponse(
        revision=revision, token_log_probs=encode_tensor(arrays["token_log_probs"])
    )
    payload = getattr(reply, field)
    payload.SetInParent()
    for name in names:
        getattr(payload, name).CopyFrom(encode_tensor(arrays[name]))
    return reply


def decode_scores(kind: int, reply: pb.ScoreResponse) -> Arrays:
    """The arrays of a reply (or of one chunk), floats as float32 and ids as int32.

    Raises:
        TeacherProtocolError: another payload than ``kind`` came back, a tensor is broken, or the
            tensors disagree about the number of positions.
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
    positions = {name: array.shape[0] if array.ndim else -1 for name, array in arrays.items()}
    if len(set(positions.values())) != 1:
        raise TeacherProtocolError(f"tensors disagree about the number of positions: {positions}")
    return {
        name: array.astype(np.int32 if name == "ids" else np.float32)
        for name, array in arrays.items()
    }


def join(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate arrays of the same names along the positions; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def result_payload(kind: int, arrays: Arrays) -> Argmax | TopK | Full:
    """The payload object of decoded arrays."""
    if kind == pb.PAYLOAD_KIND_ARGMAX:
        return Argmax(arrays["ids"], arrays["log_probs"])
    if kind == pb.PAYLOAD_KIND_TOP_K:
        return TopK(arrays["ids"], arrays["log_probs"], arrays["tail_log_mass"])
    return Full(arrays["log_probs"])


def empty_arrays(kind: int, k: int, vocabulary_size: int) -> Arrays:
    """Decoded arrays of zero positions."""
    widths: dict[int, tuple[int, ...]] = {
        pb.PAYLOAD_KIND_TOP_K: (min(k, vocabulary_size),),
        pb.PAYLOAD_KIND_FULL: (vocabulary_size,),
    }
    wide = (0, *widths.get(kind, ()))
    arrays = {
        "ids": np.zeros(wide, np.int32),
        "log_probs": np.zeros(wide, np.float32),
        "tail_log_mass": np.zeros(0, np.float32),
    }
    names = TENSORS[kind][1]
    return {"token_log_probs": np.zeros(0, np.float32)} | {n: arrays[n] for n in names}


def position_bytes(kind: int, k: int, dtype: int, vocabulary_size: int) -> int:
    """Bytes of tensors that one target position takes in a reply."""
    number = _NUMPY[dtype].itemsize
    token_id = 2 if vocabulary_size <= 65536 else 4
    if kind == pb.PAYLOAD_KIND_TOP_K:
        return min(k, vocabulary_size) * (token_id + number) + 2 * number
    if kind == pb.PAYLOAD_KIND_FULL:
        return (vocabulary_size + 1) * number
    return token_id + 2 * number


def id_dtype(vocabulary_size: int) -> np.dtype:
    """uint16 where every id fits it, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 65536 else np.dtype("<u4")


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


def _short(enum_name: str) -> str:
    """``PAYLOAD_KIND_TOP_K`` -> ``top_k``."""
    return enum_name.split("_KIND_", 1)[1].lower()
