"""The files a teacher hands out, whole and in pieces. No torch, no gRPC."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.work import Backend

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class ArtifactFile:
    """One file: its path relative to the artefact's root, its bytes and their SHA-256 in hex."""

    name: str
    content: bytes
    sha256: str

    def pieces(self, revision: str) -> Iterator[pb.GetArtifactResponse]:
        """Messages of about a mebibyte; an empty file has one."""
        for offset in range(0, max(1, len(self.content)), _PIECE_BYTES):
            yield pb.GetArtifactResponse(
                file_name=self.name,
                file_bytes=len(self.content),
                offset=offset,
                data=self.content[offset : offset + _PIECE_BYTES],
                file_sha256=self.sha256,
                revision=revision,
            )


class Artifacts:
    """A backend's artefacts, each made when it is first asked for and then kept: many callers ask
    at once, and a hundred copies of an output projection would not fit. Any thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kept: dict[int, tuple[ArtifactFile, ...]] = {}
        self._lock = threading.Lock()

    def files(self, kind: int) -> tuple[ArtifactFile, ...]:
        """The files of one of the artefacts offered; may take seconds the first time."""
        with self._lock:
            if kind not in self._kept:
                self._kept[kind] = tuple(
                    ArtifactFile(name, content, hashlib.sha256(content).hexdigest())
                    for name, content in self._backend.artifact(kind).items()
                )
            return self._kept[kind]
