"""Adding records to a store, new or existing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from teacher_service.codec import ScoreResult
from teacher_service.errors import TeacherStoreError
from teacher_service.file_lock import taken
from teacher_service.score_store.files import INDEX, RECORDS, entry_of, number_of
from teacher_service.score_store.form import DESCRIPTION, ScoreForm

TOKENIZER = "tokenizer"
# Files of a size that copies and verifies well; a pair is never divided.
FILE_BYTES = 1 << 30


class ScoreWriter:
    """Appends to one store; the only writer it has at a time.

    Args:
        directory: made where it is not there.
        form: of everything written; an existing store must have the same.
        tokenizer: the teacher's tokenizer files, asked for where the store is new.
        file_bytes: a file of records that reached this size is followed by another.

    Raises:
        TeacherStoreError: something else is there, a store of another form, or another writer; or
            the place cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        form: ScoreForm,
        tokenizer: Callable[[], Mapping[str, bytes]],
        *,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self.directory, self._form, self._file_bytes = directory, form, file_bytes
        self._records = self._index = -1
        self._offset = 0
        with self._reported():
            if not directory.exists():
                _create(directory, form, tokenizer())
            _check_same(directory, ScoreForm.read(directory), form)
            self._lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not taken(self._lock):
                    raise TeacherStoreError(
                        f"another process writes to score store {directory}; let it finish"
                    )
            except BaseException:
                os.close(self._lock)
                raise

    def append(self, keys: Sequence[bytes], result: ScoreResult) -> None:
        """Write the records of a result, and once they are on disk their index entries.

        Raises:
            TeacherStoreError: the result is of another revision, or the disk refuses.
        """
        if result.revision != self._form.info.revision:
            raise TeacherStoreError(
                f"scores of teacher {result.revision} do not belong into a store of "
                f"{self._form.info.revision}"
            )
        with self._reported():
            if self._records < 0 or self._offset >= self._file_bytes:
                self._next_files()
            records, entries, offset = self._form.pack(result), [], self._offset
            lengths = result.lengths_B.tolist()
            for key, record, positions in zip(keys, records, lengths, strict=True):
                entries.append(entry_of(key, offset, positions, record).tobytes())
                offset += len(record)
            _write(self._records, b"".join(records))
            _write(self._index, b"".join(entries))
            self._offset = offset

    def close(self) -> None:
        """Let others write; every record is on disk already."""
        for descriptor in (self._records, self._index, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._records = self._index = self._lock = -1

    def __enter__(self) -> ScoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _next_files(self) -> None:
        """Begin files with a number of their own, records first: an index is never alone."""
        for descriptor in (self._records, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._records = self._index = -1
        used = [number_of(file) for file in self.directory.iterdir()]
        stem = self.directory / f"{max(used, default=-1) + 1:05d}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._records = os.open(f"{stem}{RECORDS}", flags, 0o666)
        self._index = os.open(f"{stem}{INDEX}", flags, 0o666)
        os.fsync(self._lock)  # the directory
        self._offset = 0

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TeacherStoreError(
                f"score store {self.directory} cannot be written: {error.strerror or error}; what "
                "it holds stays usable, and the same command goes on from there"
            ) from error


def _create(directory: Path, form: ScoreForm, tokenizer: Mapping[str, bytes]) -> None:
    """An empty store, in its place all at once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        fresh.chmod(0o777 & ~_umask())
        contents = {f"{TOKENIZER}/{name}": content for name, content in tokenizer.items()}
        for name, content in (contents | {DESCRIPTION: form.to_json().encode()}).items():
            file = fresh / name
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with contextlib.closing(os.fdopen(descriptor, "wb", closefd=True)):
                _write(descriptor, content)
        fresh.rename(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check_same(directory: Path, found: ScoreForm, form: ScoreForm) -> None:
    if found.info.revision != form.info.revision:
        raise TeacherStoreError(
            f"score store {directory} is of teacher {found.info.revision}, and "
            f"{form.info.revision} answers; serve the first one, or choose another directory"
        )
    if found.info.fingerprint != form.info.fingerprint or not found.same_question(form):
        raise TeacherStoreError(
            f"score store {directory} holds {found.asked()}, not {form.asked()}; choose another "
            "directory"
        )


def _write(descriptor: int, content: bytes) -> None:
    """All of it, on disk when this returns."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
