"""Messages the client sends and checks on what it gets back. No torch, no gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.errors import TeacherProtocolError, TeacherRefused
from teacher_service.payloads import FLOATS

Ids = Sequence[int] | np.ndarray

_KINDS: dict[type, pb.PayloadKind] = {
    codec.ArgmaxSpec: pb.PAYLOAD_KIND_ARGMAX,
    codec.TopKSpec: pb.PAYLOAD_KIND_TOP_K,
    codec.CandidatesSpec: pb.PAYLOAD_KIND_CANDIDATES,
    codec.HiddenSpec: pb.PAYLOAD_KIND_HIDDEN,
    codec.FullSpec: pb.PAYLOAD_KIND_FULL,
}


def score_request(
    expect: pb.ModelExpectation,
    spec: pb.PayloadSpec,
    temperature: float,
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    candidates: Sequence[pb.Tensor] = (),
) -> pb.ScoreRequest:
    """One request; ``candidates`` are of every sequence or of none.

    Raises:
        TeacherRefused: an id or the temperature does not fit its field.
    """
    try:
        request = pb.ScoreRequest(expect=expect, payload=spec, temperature=temperature)
        for source, target in zip(sources, targets, strict=True):
            request.sequences.add(source_ids=_plain(source), target_ids=_plain(target))
        for sequence, tensor in zip(request.sequences, candidates, strict=False):
            sequence.candidate_ids.CopyFrom(tensor)
    except (ValueError, TypeError) as error:
        raise TeacherRefused(f"not expressible in the contract: {error}") from error
    return request


def generate_request(
    expect: pb.ModelExpectation,
    mode: codec.Greedy | codec.Sample | codec.Beam,
    limit: codec.LengthLimit | None,
    sources: Sequence[Ids],
    prefixes: Sequence[Ids],
    keys: Sequence[int],
) -> pb.GenerateRequest:
    """One request.

    Raises:
        TeacherRefused: a number does not fit its field.
    """
    try:
        request = pb.GenerateRequest(expect=expect, limit=_limit(limit), **_mode(mode))
        for source, prefix, key in zip(sources, prefixes, keys, strict=True):
            request.inputs.append(
                pb.GenerateInput(source_ids=_plain(source), prefix_ids=_plain(prefix), key=key)
            )
    except (ValueError, TypeError) as error:
        raise TeacherRefused(f"not expressible in the contract: {error}") from error
    return request


def payload_spec(payload: codec.PayloadRequest) -> pb.PayloadSpec:
    """The message of a payload choice.

    Raises:
        TeacherRefused: unknown dtype, or k does not fit its field.
    """
    if payload.dtype not in FLOATS:
        raise TeacherRefused(
            f"payload dtype {payload.dtype!r} is unknown; choose {' or '.join(FLOATS)}"
        )
    spec = pb.PayloadSpec(kind=_KINDS[type(payload)], dtype=FLOATS[payload.dtype])
    if isinstance(payload, codec.TopKSpec):
        try:
            spec.k = payload.k
        except (ValueError, TypeError) as error:
            raise TeacherRefused(
                f"k={payload.k}: {error}; give an integer of at least 1"
            ) from error
    return spec


def artifact_kind(name: str) -> pb.ArtifactKind:
    """The code of ``"tokenizer"`` or ``"output_projection"``.

    Raises:
        TeacherRefused: unknown name.
    """
    codes = {
        key.split("_KIND_", 1)[1].lower(): code
        for key, code in pb.ArtifactKind.items()
        if code != pb.ARTIFACT_KIND_UNSPECIFIED
    }
    if name not in codes:
        raise TeacherRefused(f"unknown artefact {name!r}; known: {', '.join(sorted(codes))}")
    return codes[name]


def split(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    position_bytes: int,
    reply_bytes: int,
    info: codec.ModelInfo,
    row_bytes: int = 0,
) -> Iterator[slice]:
    """Runs of consecutive rows, each within every limit of one request (or a single row).

    Args:
        position_bytes: of a target position in the reply.
        reply_bytes: bound of a reply.
        row_bytes: what a target position takes in the request besides its id.
    """
    # A varint of an id has at most 5 bytes; tags and lengths of a sequence at most 32, of its
    # tensor as well.
    overhead = 64 if row_bytes else 32
    id_bytes = max(1, (max(1, info.vocabulary_size - 1).bit_length() + 6) // 7)
    # A few batches' worth: enough to fill them, and an attempt stays within its deadline.
    most_tokens = min(info.max_request_tokens, 4 * info.batch_token_budget)
    first, tokens, request, reply = 0, 0, 1024, 0
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        length = len(source) + len(target)
        size = length * id_bytes + len(target) * row_bytes + overhead
        grown = request + size
        full = (
            row - first >= info.max_request_sequences
            or tokens + length > most_tokens
            or grown > info.max_request_bytes
            or reply + len(target) * position_bytes > reply_bytes
        )
        if row > first and full:
            yield slice(first, row)
            first, tokens, reply = row, 0, 0
            grown = 1024 + size
        tokens, request = tokens + length, grown
        reply += len(target) * position_bytes
    if len(sources) > first:
        yield slice(first, len(sources))


def assemble(pieces: Iterable[pb.GetArtifactResponse], address: str) -> dict[str, bytes]:
    """Files from their pieces; every size, order and hash checked."""
    files: dict[str, bytearray] = {}
    facts: dict[str, tuple[int, str]] = {}
    for piece in pieces:
        name = piece.file_name
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise TeacherProtocolError(f"{address}: artefact file name {name!r} leaves its folder")
        content = files.setdefault(name, bytearray())
        facts[name] = (piece.file_bytes, piece.file_sha256)
        if piece.offset != len(content):
            raise TeacherProtocolError(
                f"{address}: piece of {name} at byte {piece.offset}, expected {len(content)}"
            )
        content += piece.data
    for name, (size, digest) in facts.items():
        if len(files[name]) != size or hashlib.sha256(files[name]).hexdigest() != digest:
            raise TeacherProtocolError(
                f"{address}: artefact file {name} arrived damaged; ask again"
            )
    return {name: bytes(content) for name, content in files.items()}


def checked(arrays: codec.Arrays, positions: int) -> codec.Arrays:
    found = len(arrays["token_log_probs"])
    if found != positions:
        raise TeacherProtocolError(f"asked for {positions} positions but got {found}")
    return arrays


def _plain(ids: Ids) -> Sequence[int]:
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _mode(mode: codec.Greedy | codec.Sample | codec.Beam) -> dict[str, Any]:
    if isinstance(mode, codec.Sample):
        sampling = pb.Sampling(top_k=mode.top_k, temperature=mode.temperature, seed=mode.seed)
        return {"sampling": sampling}
    if isinstance(mode, codec.Beam):
        beam = pb.BeamSearch(size=mode.size, n_best=mode.n_best, length_penalty=mode.length_penalty)
        return {"beam": beam}
    return {"greedy": pb.GreedySearch()}


def _limit(limit: codec.LengthLimit | None) -> pb.LengthLimit | None:
    if limit is None:
        return None
    return pb.LengthLimit(ratio=limit.ratio, offset=limit.offset, cap=limit.cap)
