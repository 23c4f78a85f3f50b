"""An unfinished distillation on disk: what is written of each split, a part at a time.

A directory beside the corpus it will become::

    OUT.distil/distillation.json      the recipe and the rows of a part
    OUT.distil/train-000000512.jsonl  rows 512 .. of train, one line a row

A part is written whole or not at all, so that a killed process loses the part it was at and nothing
is there twice. A line is a record of the corpus, or ``{"left_out": why}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from imitkd.distilling.recipe import RECIPE_FILE, Recipe, require_same
from seq2seq.checkpoint import atomic_file
from seq2seq.errors import UserError
from teacher_service.file_lock import taken

Record = dict[str, Any]


class Parts:
    """The parts of one distillation; one process at a time works on them.

    Args:
        place: made where it is not there.
        rows: of a part; where parts are there already, theirs count.

    Raises:
        UserError: parts of another recipe, another process at work, or a disk that refuses.
    """

    def __init__(self, place: Path, recipe: Recipe, rows: int) -> None:
        self.place = place
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(
                f"cannot write '{place}' ({error.strerror}); choose another --out"
            ) from error
        try:
            self._take()
            self.rows = self._begin(recipe, rows)
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self) -> None:
        try:
            mine = taken(self._lock)
        except OSError as error:
            raise UserError(
                f"cannot lock '{self.place}' ({error.strerror}); choose another --out"
            ) from error
        if not mine:
            raise UserError(
                f"another process writes to '{self.place}'; let it finish or choose another --out"
            )

    def _begin(self, recipe: Recipe, rows: int) -> int:
        file = self.place / RECIPE_FILE
        if file.is_file():
            begun = json.loads(file.read_text("utf-8"))
            require_same(self.place, begun["recipe"], recipe)
            return int(begun["rows"])
        if any(not f.name.startswith(".") for f in self.place.iterdir()):
            raise UserError(
                f"'{self.place}' is in the way and no unfinished distillation; move it away or "
                "choose another --out"
            )
        with atomic_file(file) as fresh:
            fresh.write_text(json.dumps({"recipe": recipe, "rows": rows}, indent=2) + "\n", "utf-8")
        return rows

    def begins(self, total: int) -> range:
        """First rows of the parts of a split of so many rows."""
        return range(0, total, self.rows)

    def has(self, split: str, begin: int) -> bool:
        """Whether a part is there."""
        return self._file(split, begin).is_file()

    def write(self, split: str, begin: int, records: Sequence[Record]) -> None:
        """Write a part.

        Raises:
            UserError: the disk refuses; earlier parts stay.
        """
        with atomic_file(self._file(split, begin)) as fresh:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            fresh.write_text("".join(lines), "utf-8")

    def read(self, split: str, begin: int, expected: int) -> Iterator[Record]:
        """The lines of a part.

        Raises:
            UserError: it has been changed by something else.
        """
        file, count = self._file(split, begin), 0
        with open(file, encoding="utf-8", newline="\n") as lines:
            for count, line in enumerate(lines, 1):  # noqa: B007
                yield json.loads(line)
        if count != expected:
            raise UserError(f"'{file}' has {count} lines, expected {expected}; delete that file")

    def remove(self) -> None:
        """Delete everything; the corpus is in its place."""
        shutil.rmtree(self.place, ignore_errors=True)

    def close(self) -> None:
        """Let others work on them."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _file(self, split: str, begin: int) -> Path:
        return self.place / f"{split}-{begin:09d}.jsonl"
