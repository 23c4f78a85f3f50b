"""Whether a score store has all that a run will ask for, told before the run begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seq2seq.data import TokenizedSplit
from teacher_service.errors import TeacherStoreError
from teacher_service.score_store.stored_teacher import StoredTeacher

_CHUNK = 65536


def require_pairs(teacher: StoredTeacher, split: TokenizedSplit, corpus: Path) -> None:
    """Look every pair of a split up; its record is read, and its checksum tested, when it is used.

    Args:
        corpus: for messages.

    Raises:
        TeacherStoreError: pairs are not there.
    """
    missing = 0
    for begin in range(0, len(split), _CHUNK):
        rows = range(begin, min(begin + _CHUNK, len(split)))
        found = teacher.find([split.source(r) for r in rows], [split.target(r) for r in rows])
        missing += int(np.count_nonzero(found < 0))
    if missing:
        form = teacher.form
        raise TeacherStoreError(
            f"score store {teacher.directory} lacks {missing:,} of the {len(split):,} training "
            f"pairs of {corpus}; add them with `imitkd teacher score-corpus {corpus} --out "
            f"{teacher.directory} --top-k {form.spec.k} --temperature {form.temperature:g}` "
            f"against teacher {form.info.revision}"
        )
