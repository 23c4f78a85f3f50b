"""The caller's own ids of payload CANDIDATES, read from a request and checked. No torch, no gRPC.

Letters: T target length, K candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.errors import TeacherProtocolError
from teacher_service.refusals import InvalidRequest

_DTYPES = (pb.DATA_TYPE_UINT16, pb.DATA_TYPE_UINT32, pb.DATA_TYPE_INT32)


def read_candidates(
    sequences: Sequence[pb.ScoreSequence], vocabulary_size: int
) -> tuple[list[np.ndarray], int]:
    """The candidates [T, K] of every sequence of a request, in the dtypes they came in, and K.

    Raises:
        InvalidRequest: one is missing or no table of T rows; K is not the same throughout or not
            in 1 .. V; an id is outside the vocabulary, or twice in one row.
    """
    tables: list[np.ndarray] = []
    for index, sequence in enumerate(sequences):
        where = f"sequences[{index}].candidate_ids"
        if not sequence.HasField("candidate_ids"):
            raise InvalidRequest(where, "missing; payload CANDIDATES needs ids [T, K]")
        tensor, length = sequence.candidate_ids, len(sequence.target_ids)
        if tensor.dtype not in _DTYPES:
            raise InvalidRequest(where, f"dtype {tensor.dtype} is none of UINT16, UINT32, INT32")
        if len(tensor.shape) != 2 or tensor.shape[0] != length:
            shape = list(tensor.shape[:4])
            raise InvalidRequest(where, f"shape {shape}, expected [{length}, K]: a row a target id")
        k = tensor.shape[1]
        if not 1 <= k <= vocabulary_size:
            raise InvalidRequest(where, f"K of {k} is outside 1 .. {vocabulary_size}")
        if tables and k != tables[0].shape[1]:
            raise InvalidRequest(
                where,
                f"K of {k} is not that of sequences[0], {tables[0].shape[1]}; send two requests",
            )
        try:
            tables.append(codec.decode_tensor(tensor, "candidate_ids"))
        except TeacherProtocolError as error:
            raise InvalidRequest(where, str(error)) from error
    _check_ids(tables, vocabulary_size)
    return tables, tables[0].shape[1]


def _check_ids(tables: Sequence[np.ndarray], vocabulary_size: int) -> None:
    """All at once: a request may hold a million ids, and the event loop waits."""
    ids_PK = np.sort(np.concatenate(tables), axis=1)
    outside_P = (ids_PK[:, 0] < 0) | (ids_PK[:, -1] >= vocabulary_size)
    twice_P = (ids_PK[:, 1:] == ids_PK[:, :-1]).any(1)
    bad = np.flatnonzero(outside_P | twice_P)
    if not len(bad):
        return
    ends = np.cumsum([len(table) for table in tables])
    index = int(np.searchsorted(ends, bad[0], side="right"))
    row = int(bad[0] - (ends[index] - len(tables[index])))
    reason = (
        f"holds an id outside the vocabulary 0 .. {vocabulary_size - 1}"
        if outside_P[bad[0]]
        else "holds an id twice; those of a position must be distinct"
    )
    raise InvalidRequest(f"sequences[{index}].candidate_ids", f"row {row} {reason}")
