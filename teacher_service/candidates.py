"""The caller's own ids of payload CANDIDATES, as the client sends them.

Letters: T target length, K candidates, V vocabulary. No torch, no gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.errors import TeacherRefused
from teacher_service.payloads import id_dtype

TokenTable = np.ndarray | Sequence[Sequence[int]]


@dataclass(frozen=True)
class PackedCandidates:
    """Candidates as they travel; empty for every other payload.

    Attributes:
        k: ids a position.
        tensors: of each sequence.
        row_bytes: what a target position takes in the request besides its own id.
    """

    k: int = 0
    tensors: Sequence[pb.Tensor] = ()
    row_bytes: int = 0


def pack_candidates(
    payload: codec.PayloadRequest,
    candidates: Sequence[TokenTable] | None,
    lengths: Sequence[int] | np.ndarray,
    vocabulary_size: int,
) -> PackedCandidates:
    """One tensor for each target, as narrow as the vocabulary allows.

    Args:
        candidates: per target its ids [T, K]; of an empty target anything empty will do.
        lengths: T of each target.

    Raises:
        TeacherRefused: they are missing or superfluous, or not such tables of ids. Whether those
            of one position are distinct is for the server to say.
    """
    if not isinstance(payload, codec.CandidatesSpec):
        if candidates is not None:
            raise TeacherRefused("candidates are given, but only payload CANDIDATES takes them")
        return PackedCandidates()
    if candidates is None or len(candidates) != len(lengths):
        given = "none" if candidates is None else len(candidates)
        raise TeacherRefused(
            f"payload CANDIDATES needs tables of ids for {len(lengths)} targets, got {given}"
        )
    tables = [
        _table(c, int(t), f"candidates[{i}]")
        for i, (c, t) in enumerate(zip(candidates, lengths, strict=True))
    ]
    k = next((table.shape[1] for table in tables if table is not None), 1)
    narrow = id_dtype(vocabulary_size)
    tensors = []
    for index, table in enumerate(tables):
        if table is None:
            table = np.zeros((0, k), narrow)
        if table.shape[1] != k:
            raise TeacherRefused(
                f"candidates[{index}] has {table.shape[1]} ids a position, the first {k}; give as "
                "many throughout a call"
            )
        if table.size and not 0 <= table.min() <= table.max() < vocabulary_size:
            raise TeacherRefused(
                f"candidates[{index}] holds ids {table.min()} .. {table.max()}, outside the "
                f"vocabulary 0 .. {vocabulary_size - 1}"
            )
        tensors.append(codec.encode_tensor(table.astype(narrow)))
    return PackedCandidates(k, tensors, k * narrow.itemsize)


def _table(given: TokenTable, length: int, where: str) -> np.ndarray | None:
    """``given`` as an integer array [T, K]; None where an empty target leaves K open."""
    try:
        table = np.asarray(given)
    except ValueError as error:
        raise TeacherRefused(f"{where} is no table: its rows differ in length") from error
    if length == 0 and table.size == 0 and table.ndim != 2:
        return None
    if table.ndim != 2 or len(table) != length or table.shape[1] == 0:
        raise TeacherRefused(
            f"{where} has shape {table.shape}, expected ({length}, K), K at least 1"
        )
    if table.size and not np.issubdtype(table.dtype, np.integer):
        raise TeacherRefused(f"{where} holds {table.dtype}, not integers")
    return table
