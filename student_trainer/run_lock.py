"""One driver at a time writes a run: a lock, and a token that fences off whoever had it before.

Two files in the run directory. ``.lock`` is locked with flock while the driver's process lives, so
the kernel lets go of it whatever kills the process. ``holder.json`` says who holds it, under a
token that grows by one with every holder; the holder touches the file every few seconds. Whatever
writes to the run first compares its token with the file's: a driver or learner that was cut off,
and comes back after another took over, is refused.

flock does not reach every machine of every network file system. Of a holder on another machine the
touched file is what counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seq2seq.checkpoint import atomic_file
from seq2seq.errors import UserError
from teacher_service.file_lock import taken

LOCK_FILE, HOLDER_FILE = ".lock", "holder.json"
BEAT_S = 5.0
# So many missed touches are no delay of a busy disk any more.
STALE_S = 6 * BEAT_S


class AlreadyHeldError(UserError):
    """Another living process holds it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run, or held it last.

    Attributes:
        token: grows with every holder.
        beat_s: seconds since it last said that it lives.
    """

    token: int
    pid: int
    host: str
    beat_s: float

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


@dataclass(frozen=True)
class Fence:
    """Lets through whoever still holds a run; plain values, so that it reaches other processes."""

    run: Path
    token: int

    def check(self) -> None:
        """Return where the run is still ours.

        Raises:
            UserError: another process holds it now.
        """
        holder = read_holder(self.run)
        if holder is not None and holder.token != self.token:
            raise UserError(
                f"{self.run} was taken over by process {holder.pid} on {holder.host}, which "
                "resumes it; this one writes no more"
            )


def read_holder(run: Path, clock: Callable[[], float] = time.time) -> Holder | None:
    """Who holds ``run`` or held it last; None where nobody ever did."""
    path = Path(run) / HOLDER_FILE
    try:
        found = json.loads(path.read_text())
        beat_s = clock() - path.stat().st_mtime
        return Holder(found["token"], found["pid"], found["host"], beat_s)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it if nothing runs") from error


def is_held(run: Path, clock: Callable[[], float] = time.time) -> bool:
    """Whether a living process holds ``run``."""
    holder = read_holder(run, clock)
    if holder is None:
        return False
    if not holder.here:
        return holder.beat_s < STALE_S
    try:
        with open(Path(run) / LOCK_FILE, "rb") as file:
            return not taken(file.fileno(), shared=True)
    except FileNotFoundError:
        return False
    except OSError:  # a file system without locks
        return holder.beat_s < STALE_S


@contextlib.contextmanager
def held(
    run: Path, clock: Callable[[], float] = time.time, beat_s: float = BEAT_S
) -> Iterator[Fence]:
    """Hold ``run`` inside the block.

    Raises:
        AlreadyHeldError: another living process holds it.
        UserError: the disk cannot be written.
    """
    run = Path(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / LOCK_FILE, "ab")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write {run / LOCK_FILE}: {error.strerror}; free disk space"
        ) from error
    with file:
        before = read_holder(run, clock)
        _lock(file.fileno(), run, before)
        fence = Fence(run, 1 + (before.token if before is not None else 0))
        mine = {"token": fence.token, "pid": os.getpid(), "host": socket.gethostname()}
        with atomic_file(run / HOLDER_FILE) as fresh:
            fresh.write_text(json.dumps(mine) + "\n")
        done = threading.Event()
        beating = threading.Thread(target=_beat, args=(fence, done, beat_s), daemon=True)
        beating.start()
        try:
            yield fence
        finally:
            done.set()
            beating.join()


def _lock(file: int, run: Path, before: Holder | None) -> None:
    who = f"process {before.pid} on {before.host}" if before is not None else "another process"
    try:
        free = taken(file)
    except OSError:  # a file system without locks: the touched file has to do
        free = before is None or not before.here or before.beat_s >= STALE_S
    if not free:
        raise AlreadyHeldError(f"{run} is being run by {who}; end that one first")
    if before is not None and not before.here and before.beat_s < STALE_S:
        raise AlreadyHeldError(
            f"{run} is being run by {who}, which said so {before.beat_s:.0f} s ago; end that one "
            f"first, or wait {STALE_S:.0f} s if it is dead"
        )


def _beat(fence: Fence, done: threading.Event, beat_s: float) -> None:
    """Touch the holder's file until the end, or until it is somebody else's."""
    while not done.wait(beat_s):
        try:
            fence.check()
            os.utime(fence.run / HOLDER_FILE)
        except (OSError, UserError):
            return
