"""A file of JSON lines that is only appended to, read as whole lines, and cut off at its end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError

Record = dict[str, Any]


class JsonLines:
    """One record a line. A record is in the file once ``append`` has returned: the death of the
    process loses nothing, a power cut at most what came after the last ``sync``.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def append(self, record: Record) -> None:
        """Add a line.

        Raises:
            UserError: the disk is full; the file ends with the last whole line.
        """
        line = (json.dumps(record) + "\n").encode()
        end = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab", buffering=0) as file:
                written = file.write(line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, end)
            raise self._fault(error) from error

    def sync(self) -> None:
        """Have what was appended survive a power cut.

        Raises:
            UserError: the disk is full or failing.
        """
        if not self.path.exists():
            return
        try:
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._fault(error) from error

    def read(self) -> Iterator[Record]:
        """All whole lines in order, one at a time; none where there is no file.

        Raises:
            UserError: a line is damaged.
        """
        for _, record in self._lines():
            yield record

    def tail(self, size: int) -> list[Record]:
        """The records within the last ``size`` bytes, for a look that must be quick.

        Raises:
            UserError: a line is damaged.
        """
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(begin)
            whole = file.read().split(b"\n")[bool(begin) : -1]
        return [self._record(line) for line in whole]

    def cut(self, keep: Callable[[Record], bool]) -> None:
        """End the file before the first record that is not kept; a torn last line goes too.

        Raises:
            UserError: the disk cannot be written; the file stays as it was.
        """
        if not self.path.exists():
            return
        end = 0
        for after, record in self._lines():
            if not keep(record):
                break
            end = after
        try:
            os.truncate(self.path, end)
        except OSError as error:
            raise self._fault(error) from error

    def _lines(self) -> Iterator[tuple[int, Record]]:
        """Each record with where its line ends."""
        if not self.path.exists():
            return
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield end, self._record(line)

    def _record(self, line: bytes) -> Record:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{self.path} is damaged: {line[:60]!r} is no record") from error
        if not isinstance(record, dict):
            raise UserError(f"{self.path} is damaged: {line[:60]!r} is no record")
        return record

    def _fault(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path}: {error.strerror}; free disk space, then continue with "
            "--resume"
        )
