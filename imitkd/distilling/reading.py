"""What a teacher wrote for a corpus, read back."""

from __future__ import annotations

import json
from pathlib import Path

from seq2seq.corpus import Example
from seq2seq.errors import UserError
from student_trainer.targets import Distilled


def read_best(corpus: Path, split: str) -> list[Example]:
    """The split with the teacher's best candidates as its only references.

    Raises:
        UserError: no such split, or a row without candidates (with its line).
    """
    path, found = corpus / f"{split}.jsonl", []
    remedy = f"have the teacher write it: `imitkd data distil CORPUS --split {split}`"
    if not path.is_file():
        raise UserError(f"{path} does not exist; {remedy}")
    with open(path, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found.append(Distilled.of_record(json.loads(line)).by_teacher)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number} has no 'candidates' of a teacher; {remedy}"
                ) from error
    return found
