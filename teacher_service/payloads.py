"""The payloads: how each is asked for, what comes back, and how its tensors are laid out.

Letters: P packed positions, V vocabulary, K candidates, D width of the decoder. No torch, no gRPC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.errors import TeacherProtocolError

Arrays = dict[str, np.ndarray]
FloatName = Literal["float16", "float32"]

# What one position has of each tensor, token_log_probs included.
RowShapes = Mapping[str, tuple[int, ...]]

FLOATS: Mapping[str, pb.DataType] = {
    "float16": pb.DATA_TYPE_FLOAT16,
    "float32": pb.DATA_TYPE_FLOAT32,
}

# Of each payload the name of its message in the oneof, and its tensors besides token_log_probs with
# what one position has of them: K, V or D numbers, or (no letter) a single one. ``ids`` are token
# ids, everything else are floats of the dtype asked for.
TENSORS: Mapping[int, tuple[str, Mapping[str, str]]] = {
    pb.PAYLOAD_KIND_ARGMAX: ("argmax", {"ids": "", "log_probs": ""}),
    pb.PAYLOAD_KIND_TOP_K: ("top_k", {"ids": "K", "log_probs": "K", "tail_log_mass": ""}),
    pb.PAYLOAD_KIND_CANDIDATES: ("candidates", {"log_probs": "K", "tail_log_mass": ""}),
    pb.PAYLOAD_KIND_HIDDEN: ("hidden", {"states": "D"}),
    pb.PAYLOAD_KIND_FULL: ("full", {"log_probs": "V"}),
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
class CandidatesSpec:
    """Ask for ids of one's own and the mass of the rest (``PAYLOAD_KIND_CANDIDATES``)."""

    dtype: FloatName = "float16"


@dataclass(frozen=True)
class HiddenSpec:
    """Ask for the decoder's final states (``PAYLOAD_KIND_HIDDEN``); see ``projection``."""

    dtype: FloatName = "float16"


@dataclass(frozen=True)
class FullSpec:
    """Ask for the whole distribution (``PAYLOAD_KIND_FULL``); travels in chunks."""

    dtype: FloatName = "float16"


PayloadRequest = ArgmaxSpec | TopKSpec | CandidatesSpec | HiddenSpec | FullSpec


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
class Candidates:
    """``log_probs_PK`` float32 in the order asked for, ``tail_log_mass_P`` float32, may be -inf."""

    log_probs_PK: np.ndarray
    tail_log_mass_P: np.ndarray


@dataclass(frozen=True)
class Hidden:
    """``states_PD`` float32, untempered."""

    states_PD: np.ndarray


@dataclass(frozen=True)
class Full:
    """``log_probs_PV`` float32."""

    log_probs_PV: np.ndarray


Payload = Argmax | TopK | Candidates | Hidden | Full


def result_payload(kind: int, arrays: Arrays, rows: RowShapes) -> Payload:
    """The payload object of decoded arrays.

    Raises:
        TeacherProtocolError: a position has more or fewer numbers than were asked for.
    """
    found = {name: array.shape[1:] for name, array in arrays.items()}
    if found != rows:
        raise TeacherProtocolError(
            f"the reply's tensors have {found} a position, expected {dict(rows)}"
        )
    if kind == pb.PAYLOAD_KIND_ARGMAX:
        return Argmax(arrays["ids"], arrays["log_probs"])
    if kind == pb.PAYLOAD_KIND_TOP_K:
        return TopK(arrays["ids"], arrays["log_probs"], arrays["tail_log_mass"])
    if kind == pb.PAYLOAD_KIND_CANDIDATES:
        return Candidates(arrays["log_probs"], arrays["tail_log_mass"])
    if kind == pb.PAYLOAD_KIND_HIDDEN:
        return Hidden(arrays["states"])
    return Full(arrays["log_probs"])


def row_shapes(kind: int, k: int, vocabulary_size: int, hidden_size: int) -> RowShapes:
    """What one position of a reply has of each tensor.

    Args:
        k: ids a position: asked for (TOP_K) or given (CANDIDATES).
    """
    extents = {"K": min(k, vocabulary_size), "V": vocabulary_size, "D": hidden_size}
    rows = {name: (extents[of],) if of else () for name, of in TENSORS[kind][1].items()}
    return {"token_log_probs": (), **rows}


def empty_arrays(rows: RowShapes) -> Arrays:
    """Decoded arrays of zero positions."""
    return {name: np.zeros((0, *row), decoded_dtype(name)) for name, row in rows.items()}


def decoded_dtype(name: str) -> np.dtype:
    """What callers get, whatever travelled: int32 ids, float32 for the rest."""
    return np.dtype(np.int32 if name == "ids" else np.float32)


def position_bytes(rows: RowShapes, dtype: int, vocabulary_size: int) -> int:
    """Bytes of tensors that one target position takes in a reply."""
    number = 2 if dtype == pb.DATA_TYPE_FLOAT16 else 4
    token_id = id_dtype(vocabulary_size).itemsize
    return sum(
        math.prod(row) * (token_id if name == "ids" else number) for name, row in rows.items()
    )


def id_dtype(vocabulary_size: int) -> np.dtype:
    """uint16 where every id fits it, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 65536 else np.dtype("<u4")
