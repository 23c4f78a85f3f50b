"""The files of a finished cell: what it wrote, as text, and what was measured of it.

::

    results/NAME/cells/STUDENT/VARIANT/seedN/cell.json
                                            /SPLIT.greedy.txt  SPLIT.beam5.txt   one text a line
                                            /curve.json      scores on validation, by step
                                            /analysis.json   as `imitkd analyse` writes it

``cell.json`` is written last: a cell that has it is finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imitkd.analysing import ANALYSIS_FILE
from seq2seq.checkpoint import atomic_file
from seq2seq.errors import UserError

FACTS_FILE, CURVE_FILE = "cell.json", "curve.json"
# Of a validation in a run's metrics.
_POINT = ("step", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "loss", "seconds", "best")


@dataclass(frozen=True)
class CellFacts:
    """What does not follow from the texts.

    Attributes:
        method: name of the rows.
        student, seed: None for the teacher.
        greedy_sentences_per_s: by test split.
        train_seconds: None for the teacher.
        details: for readers: configuration, steps, validation scores, revision, machine.
    """

    method: str
    student: str | None
    seed: int | None
    parameters: int
    greedy_sentences_per_s: dict[str, float]
    train_seconds: float | None
    details: dict[str, Any] = field(default_factory=dict)


class CellFiles:
    """The directory of one cell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def finished(self) -> bool:
        """Whether all of it is there."""
        return (self.path / FACTS_FILE).is_file()

    @property
    def analysed(self) -> bool:
        """Whether the student's own mistakes were looked at."""
        return (self.path / ANALYSIS_FILE).is_file()

    def write_analysis(self, found: Mapping[str, Any]) -> None:
        """What `imitkd analyse` finds of the student."""
        _write_json(self.path / ANALYSIS_FILE, found)

    def write_curve(self, metric: str, validations: Iterable[Mapping[str, Any]]) -> None:
        """Scores on validation in the order of the steps, without the examples' texts."""
        points = [
            {key: record[key] for key in _POINT if record.get(key) is not None}
            for record in validations
        ]
        _write_json(self.path / CURVE_FILE, {"metric": metric, "points": points})

    def write_texts(self, split: str, decoding: str, texts: Sequence[str]) -> None:
        """One text a line; line breaks inside a text become spaces."""
        with atomic_file(self.path / f"{split}.{decoding}.txt") as file:
            file.write_text("".join(" ".join(t.splitlines()) + "\n" for t in texts), "utf-8")

    def read_texts(self, split: str, decoding: str) -> list[str]:
        """What :meth:`write_texts` wrote.

        Raises:
            UserError: it is not there.
        """
        path = self.path / f"{split}.{decoding}.txt"
        try:
            return path.read_text("utf-8").removesuffix("\n").split("\n")
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; remove {self.path} and run the study again"
            ) from error

    def write_facts(self, facts: CellFacts) -> None:
        """Finish the cell."""
        _write_json(self.path / FACTS_FILE, asdict(facts))

    def read_facts(self) -> CellFacts:
        """What :meth:`write_facts` wrote.

        Raises:
            UserError: it cannot be read or understood.
        """
        path = self.path / FACTS_FILE
        try:
            return CellFacts(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} is no record of a finished cell ({error}); remove {self.path} and run the "
                "study again"
            ) from error


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
