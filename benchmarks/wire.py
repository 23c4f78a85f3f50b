"""What a payload costs on the wire: bytes a position, time to encode and to decode.

960 positions, K = 64, D = 512, fp16, one thread. Encoding is the server's: from the scorer's arrays
to serialised messages; decoding the client's: from those to float32 and int32. FULL travels in
chunks of a mebibyte, put together again. CANDIDATES cost something on the way out as well: packed
by the client, read and checked by the server. With HIDDEN the caller has the distributions still to
compute; that time is given too. Payloads take turns; times are medians.
"""

from __future__ import annotations

import os

# Before numpy is imported: its products take as many threads as there are.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.form import Figure, Result, run
from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, payloads
from teacher_service.candidate_validation import read_candidates
from teacher_service.candidates import pack_candidates
from teacher_service.projection import OutputProjection

POSITIONS, K, WIDTH = 960, 64, 512
VOCABULARIES = (8000, 32000)
CHUNK_BYTES = 1 << 20


def measure(quick: bool) -> Result:
    """Sizes and times of every payload, for each size of vocabulary."""
    repeats = 3 if quick else 31
    figures: dict[str, Figure] = {}
    times: dict[str, list[float]] = {}
    for size in VOCABULARIES:
        bytes_a_position, steps = _steps(size)
        for name, number in bytes_a_position.items():
            figures[f"{name}_v{size}_bytes_a_position"] = Figure(number, "bytes")
        for _ in range(repeats):
            for name, step in steps.items():
                begin = time.perf_counter()
                step()
                found = round(1000 * (time.perf_counter() - begin), 3)
                times.setdefault(f"{name.replace('/', f'_v{size}_')}_ms", []).append(found)
    figures |= {name: Figure(statistics.median(found), "ms") for name, found in times.items()}
    shape = {"positions": POSITIONS, "k": K, "width": WIDTH, "dtype": "float16", "threads": 1}
    return Result(dict(sorted(figures.items())), shape | {"repeats": repeats, "ms": times})


def _steps(size: int) -> tuple[dict[str, float], dict[str, Callable[[], Any]]]:
    """Bytes a position, and what is timed, as ``payload/step``."""
    sizes: dict[str, float] = {}
    steps: dict[str, Callable[[], Any]] = {}
    for kind, (name, _) in payloads.TENSORS.items():
        arrays = _arrays(kind, size)
        messages = _encode(kind, arrays)
        sizes[name] = sum(map(len, messages)) / POSITIONS
        steps[f"{name}/encode"] = lambda kind=kind, arrays=arrays: _encode(kind, arrays)
        steps[f"{name}/decode"] = lambda kind=kind, messages=messages: _decode(kind, messages)
    draw = np.random.default_rng(1)
    tables = [np.stack([draw.permutation(size)[:K] for _ in range(30)]) for _ in range(32)]
    request = _ask(tables, size)
    sizes["candidates_request"] = len(request) / POSITIONS
    steps["candidates_request/encode"] = lambda: _ask(tables, size)
    steps["candidates_request/decode"] = lambda: read_candidates(
        pb.ScoreRequest.FromString(request).sequences, size
    )
    projection = OutputProjection(
        draw.standard_normal((size, WIDTH)).astype("f4"), np.zeros(size, "f4"), 1.0
    )
    states = draw.standard_normal((POSITIONS, WIDTH)).astype("f4")
    steps["hidden/recompute"] = lambda: projection.log_probs(states)
    return sizes, steps


def _arrays(kind: int, size: int) -> codec.Arrays:
    """Random arrays of a reply in wire dtypes."""
    draw = np.random.default_rng(kind)
    shapes = payloads.row_shapes(kind, K, size, WIDTH)
    return {
        name: draw.integers(size, size=(POSITIONS, *row)).astype(payloads.id_dtype(size))
        if name == "ids"
        else (-10 * draw.random((POSITIONS, *row), np.float32)).astype("<f2")
        for name, row in shapes.items()
    }


def _encode(kind: int, arrays: codec.Arrays) -> list[bytes]:
    """As the server does: FULL in chunks, everything else in one message."""
    rows = POSITIONS
    if kind == pb.PAYLOAD_KIND_FULL:
        rows = max(1, CHUNK_BYTES // (2 * (1 + arrays["log_probs"].shape[1])))
    return [
        codec.encode_scores(
            kind, {name: array[first : first + rows] for name, array in arrays.items()}, "r"
        ).SerializeToString()
        for first in range(0, POSITIONS, rows)
    ]


def _decode(kind: int, messages: list[bytes]) -> codec.Arrays:
    """As the client does."""
    return codec.join(
        [codec.decode_scores(kind, pb.ScoreResponse.FromString(data)) for data in messages]
    )


def _ask(tables: list[np.ndarray], size: int) -> bytes:
    """A request with candidates alone: what they add to one."""
    lengths = [len(table) for table in tables]
    packed = pack_candidates(codec.CandidatesSpec(), tables, lengths, size)
    request = pb.ScoreRequest()
    for table, tensor in zip(tables, packed.tensors, strict=True):
        request.sequences.add(target_ids=[1] * len(table), candidate_ids=tensor)
    return request.SerializeToString()


if __name__ == "__main__":
    run("wire", measure)
