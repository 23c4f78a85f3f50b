"""Where a demo lies: whose directory it is, how far it got, and that one process works on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path

from seq2seq.errors import UserError
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import is_held, read_holder
from teacher_service.file_lock import taken

# Marks a directory that a demo made; its further lines are what the training was told.
MARKER = ".demo"
_HEADING = "Made by `imitkd demo`; its settings, a line each:"


class Stage(Enum):
    """How far an earlier demo got."""

    NEW = "nothing is there"
    BEGUN = "a checkpoint is there"
    LEARNT = "the training is done"


@contextmanager
def claimed(path: Path, settings: Sequence[str]) -> Iterator[Stage]:
    """Hold ``path`` for one demo inside the block; how far a demo with these settings got there.

    Of what is there, a demo that left no checkpoint is removed, and nothing else.

    Raises:
        UserError: something else is there, or a demo with other settings; a living process is at
            work on it; the disk cannot be written.
    """
    with ExitStack() as held:
        try:
            stage = _claim(path, settings, held)
        except OSError as error:
            raise UserError(
                f"cannot use {path} ({error.strerror or error}); choose another --output"
            ) from error
        yield stage


def _claim(path: Path, settings: Sequence[str], held: ExitStack) -> Stage:
    marker = path / MARKER
    if path.exists() and not marker.exists() and any(path.iterdir()):
        raise UserError(f"{path} holds something that is no earlier demo; choose another --output")
    path.mkdir(parents=True, exist_ok=True)
    file = held.enter_context(open(marker, "a+"))  # noqa: SIM115
    if not _free(file.fileno()) or is_held(path):
        raise UserError(_in_use(path))
    stage = _stage(path)
    if stage is Stage.NEW:
        _empty(path)
        file.truncate(0)
        print(_HEADING, *settings, sep="\n", file=file, flush=True)
    else:
        file.seek(0)
        _check_settings(path, file.read().splitlines()[1:], settings)
    return stage


def _free(file: int) -> bool:
    try:
        return taken(file)
    except OSError:  # a file system without locks: whoever trains is found all the same
        return True


def _in_use(path: Path) -> str:
    holder = read_holder(path)
    who = f" (process {holder.pid} on {holder.host})" if holder is not None else ""
    return f"a demo is at work in {path}{who}; wait for its end, end it, or choose another --output"


def _stage(path: Path) -> Stage:
    if (path / "summary.json").exists():
        return Stage.LEARNT
    return Stage.BEGUN if RunDirectory(path).checkpointed() else Stage.NEW


def _check_settings(path: Path, before: Sequence[str], now: Sequence[str]) -> None:
    if list(before) != list(now):
        raise UserError(
            f"{path} holds a demo with other settings ({' '.join(before) or 'none'}); "
            f"choose another --output, or remove {path}"
        )


def _empty(path: Path) -> None:
    """Remove all but the marker, by which the directory is held."""
    for entry in path.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
