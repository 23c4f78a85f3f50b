"""Files in pieces, each made once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import requests
from teacher_service.artifacts import ArtifactFile, Artifacts

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB - 1])
def test_pieces_put_together_are_the_file(size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    file = ArtifactFile("a/b", content, hashlib.sha256(content).hexdigest())
    pieces = list(file.pieces("r"))
    assert len(pieces) == max(1, -(-size // MIB))
    assert max(len(piece.data) for piece in pieces) <= MIB
    assert {piece.revision for piece in pieces} == {"r"}
    assert requests.assemble(pieces, "x") == {"a/b": content}


def test_an_artefact_is_made_once_however_many_ask():
    made: list[int] = []

    class Backend:
        def artifact(self, kind: int) -> dict[str, bytes]:
            made.append(kind)
            return {"b": b"2", "a": b""}

    artifacts = Artifacts(Backend())  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(artifacts.files, [pb.ARTIFACT_KIND_TOKENIZER] * 16))
    assert made == [pb.ARTIFACT_KIND_TOKENIZER]
    assert [f.name for f in found[0]] == ["b", "a"]
    assert all(files is found[0] for files in found)
    artifacts.files(pb.ARTIFACT_KIND_OUTPUT_PROJECTION)
    assert len(made) == 2
