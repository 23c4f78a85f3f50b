"""How the client cuts a call into requests and puts artefacts together."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, requests
from teacher_service.candidates import pack_candidates
from teacher_service.errors import TeacherProtocolError, TeacherRefused

INFO = codec.ModelInfo(
    name="m",
    revision="r",
    vocabulary_size=1000,
    fingerprint="f",
    pad_id=0,
    eos_id=1,
    unk_id=2,
    start_ids=(3,),
    max_source_length=50,
    max_target_length=50,
    payloads={},
    artifacts=(),
    batch_token_budget=1000,
    max_request_sequences=100,
    max_request_tokens=10_000,
    max_request_bytes=1 << 20,
    max_unary_reply_bytes=1 << 20,
    max_stream_reply_bytes=1 << 20,
    hidden_size=8,
    parameters=1,
)


def runs(info: codec.ModelInfo, lengths: list[int], width: int = 1, reply: int = 1 << 20):
    ids = [[4] * n for n in lengths]
    return [(s.start, s.stop) for s in requests.split(ids, ids, width, reply, info)]


def test_splits_nothing_that_fits():
    assert runs(INFO, [5, 5, 5]) == [(0, 3)]
    assert runs(INFO, []) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_request_sequences": 2}, [(0, 2), (2, 3)]),
        ({"max_request_tokens": 25}, [(0, 2), (2, 3)]),
        ({"batch_token_budget": 5}, [(0, 2), (2, 3)]),
        ({"max_request_bytes": 1024 + 2 * (32 + 20)}, [(0, 2), (2, 3)]),
    ],
)
def test_splits_at_every_limit_of_the_server(change, expected):
    assert runs(replace(INFO, **change), [5, 5, 5]) == expected


def test_splits_at_the_reply_size():
    assert runs(INFO, [5, 5, 5], width=10, reply=100) == [(0, 2), (2, 3)]


def test_a_single_sequence_over_a_limit_travels_alone_and_is_the_servers_to_refuse():
    assert runs(INFO, [5, 50, 5], width=10, reply=100) == [(0, 1), (1, 2), (2, 3)]


def test_the_estimated_request_size_is_an_upper_bound():
    ids = [np.full(n, 999) for n in (0, 1, 7, 49, 50)] * 20
    spec = requests.payload_spec(codec.TopKSpec(64))
    expect = pb.ModelExpectation(fingerprint="f" * 71, revision="r" * 71)
    made = requests.score_request(expect, spec, 1.0, ids, ids)
    assert made.ByteSize() <= 1024 + sum(2 * len(x) * 2 + 32 for x in ids)


def test_the_estimated_request_size_counts_candidates():
    lengths = [0, 1, 7, 49, 50] * 20
    ids = [np.full(n, 999) for n in lengths]
    spec = codec.CandidatesSpec()
    packed = pack_candidates(spec, [np.full((n, 64), 999) for n in lengths], lengths, 1000)
    made = requests.score_request(
        pb.ModelExpectation(), requests.payload_spec(spec), 1.0, ids, ids, packed.tensors
    )
    rows = [2 * n * 2 + n * packed.row_bytes + 64 for n in lengths]
    assert sum(rows) * 0.9 < made.ByteSize() <= 1024 + sum(rows)
    for bound in (1024 + sum(rows[:5]), 1024 + max(rows)):
        info = replace(INFO, max_request_bytes=bound)
        for run in requests.split(ids, ids, 1, 1 << 20, info, packed.row_bytes):
            part = requests.score_request(
                pb.ModelExpectation(),
                requests.payload_spec(spec),
                1.0,
                ids[run],
                ids[run],
                packed.tensors[run],
            )
            assert part.ByteSize() <= bound


@pytest.mark.parametrize("bad", [[-1], [1 << 32], ["a"], [1.5]])
def test_ids_that_fit_no_field_are_refused_with_one_line(bad):
    spec = requests.payload_spec(codec.ArgmaxSpec())
    with pytest.raises(TeacherRefused, match="not expressible in the contract"):
        requests.score_request(pb.ModelExpectation(), spec, 1.0, [bad], [[4]])


def test_a_payload_that_fits_no_field_is_refused():
    with pytest.raises(TeacherRefused, match="k=-1"):
        requests.payload_spec(codec.TopKSpec(-1))
    with pytest.raises(TeacherRefused, match="'float64' is unknown"):
        requests.payload_spec(codec.FullSpec("float64"))  # type: ignore[arg-type]


def piece(name: str, content: bytes, start: int, stop: int, **change) -> pb.GetArtifactResponse:
    fields = {
        "file_name": name,
        "file_bytes": len(content),
        "offset": start,
        "data": content[start:stop],
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }
    return pb.GetArtifactResponse(**(fields | change))


def test_files_are_assembled_from_pieces():
    pieces = [piece("a", b"hello", 0, 3), piece("a", b"hello", 3, 5), piece("d/e", b"", 0, 0)]
    assert requests.assemble(pieces, "x") == {"a": b"hello", "d/e": b""}


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_file_names_that_leave_their_folder_are_refused(name):
    with pytest.raises(TeacherProtocolError, match="leaves its folder"):
        requests.assemble([piece(name, b"x", 0, 1)], "x")


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("a", b"hello", 0, 3)],
        [piece("a", b"hello", 3, 5)],
        [piece("a", b"hello", 0, 5, file_sha256="0" * 64)],
    ],
)
def test_missing_or_damaged_pieces_are_refused(pieces):
    with pytest.raises(TeacherProtocolError):
        requests.assemble(pieces, "x")
