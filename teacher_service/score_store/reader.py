"""Finding and reading the records of a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from teacher_service.codec import Arrays
from teacher_service.errors import TeacherStoreError
from teacher_service.score_store.files import ENTRY, INDEX, RECORDS, checksum, index_files
from teacher_service.score_store.form import ScoreForm


class ScoreStore:
    """A store as it was when opened; safe to share between threads.

    The index is in memory, sorted by key: 84 bytes a pair. Records are read from their files
    one at a time, through the page cache, which processes share. They are not mapped: a read beyond
    the end of a file that shrank or sits on a failing disk is then an error, not the end of the
    process.

    Attributes:
        form: whose scores, and in which form.

    Raises:
        TeacherStoreError: no store there, or a file cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.form = ScoreForm.read(directory)
        self._files: list[int] = []
        self._names: list[Path] = []
        parts, owners = [np.empty(0, ENTRY)], [np.empty(0, np.int32)]
        try:
            for file in index_files(directory):
                parts.append(self._entries(file))
                owners.append(np.full(len(parts[-1]), len(self._files) - 1, np.int32))
        except OSError as error:
            self.close()
            raise TeacherStoreError(
                f"score store {directory} cannot be read: {error.filename}: {error.strerror}; "
                "remove the files of that number and run `imitkd teacher score-corpus` again"
            ) from error
        entries = np.concatenate(parts)
        order = np.argsort(entries["key"], kind="stable")
        self._entries_N, self._file_N = entries[order], np.concatenate(owners)[order]
        self._keys_N = np.ascontiguousarray(self._entries_N["key"])

    def __len__(self) -> int:
        return len(self._keys_N)

    @property
    def positions(self) -> int:
        """Target positions of all records."""
        return int(self._entries_N["positions"].sum(dtype=np.int64))

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """int64 ``[len(keys)]``: which record holds each key; -1 where none does."""
        wanted = np.frombuffer(b"".join(keys), "S32")
        if not len(self):
            return np.full(len(wanted), -1)
        place = np.minimum(np.searchsorted(self._keys_N, wanted), len(self) - 1)
        return np.where(self._keys_N[place] == wanted, place, -1)

    def read(self, place: int) -> Arrays:
        """The decoded arrays of a record that :meth:`find` named.

        Raises:
            TeacherStoreError: it cannot be read or is damaged.
        """
        entry = self._entries_N[place]
        owner, positions = int(self._file_N[place]), int(entry["positions"])
        size = positions * self.form.position_bytes
        try:
            record = os.pread(self._files[owner], size, int(entry["offset"]))
            if checksum(entry, record) != entry["crc"]:
                raise ValueError("checksum differs")
            return self.form.unpack(record, positions)
        except (OSError, ValueError) as error:
            file = self._names[owner]
            raise TeacherStoreError(
                f"{file} is damaged at byte {entry['offset']} ({error}); remove {file.stem}.* "
                "there and run `imitkd teacher score-corpus` again"
            ) from error

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []

    def _entries(self, file: Path) -> np.ndarray:
        """Entries of an index file whose records are there; a torn last one is passed over."""
        raw = file.read_bytes()
        entries = np.frombuffer(raw[: len(raw) - len(raw) % ENTRY.itemsize], ENTRY)
        self._names.append(file.with_name(file.name.removesuffix(INDEX) + RECORDS))
        self._files.append(os.open(self._names[-1], os.O_RDONLY | os.O_CLOEXEC))
        size = np.uint64(os.fstat(self._files[-1]).st_size)
        # Divided, not multiplied: nothing overflows, whatever the file claims.
        room = (size - np.minimum(entries["offset"], size)) // np.uint64(self.form.position_bytes)
        return entries[(entries["offset"] <= size) & (entries["positions"] <= room)]
