"""The tokenizer of the teacher that answers, over the wire."""

from __future__ import annotations

import tempfile
from pathlib import Path

from seq2seq.vocabulary import Vocabulary, load_vocabulary
from teacher_service.client import TeacherClient


def served_vocabulary(teacher: TeacherClient) -> Vocabulary:
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
