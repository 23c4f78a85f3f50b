"""The tokenizer of the teacher that answers, over the wire."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from seq2seq.vocabulary import Vocabulary, load_vocabulary


class HasArtifacts(Protocol):
    """The part of a teacher client, or of a score store in its place, that has files."""

    def artifact(self, kind: str = "tokenizer") -> dict[str, bytes]:
        """Files by their relative names."""


def served_vocabulary(teacher: HasArtifacts) -> Vocabulary:
    """The teacher's tokenizer, fetched as an artefact and checked by its fingerprint.

    Raises:
        UserError: it is of a kind that this program cannot use.
        TeacherError: the teacher is absent past its deadline or has no tokenizer to give.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name, content in teacher.artifact("tokenizer").items():
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_vocabulary(Path(directory))
