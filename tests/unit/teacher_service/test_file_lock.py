"""Who has a lock, and when it is let go of."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from teacher_service.file_lock import taken

HOLD = (
    "import os, sys, time; from teacher_service.file_lock import taken\n"
    "print(taken(os.open(sys.argv[1], os.O_RDONLY)), flush=True); time.sleep(60)"
)


def test_one_holder_at_a_time_until_it_closes(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert taken(first) and not taken(second) and not taken(second, shared=True)
    os.close(first)
    assert taken(second)
    os.close(second)


def test_looks_suffer_each_other_and_keep_a_holder_out(tmp_path: Path) -> None:
    looks = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    assert all(taken(look, shared=True) for look in looks)
    holder = os.open(tmp_path, os.O_RDONLY)
    assert not taken(holder)
    for descriptor in (*looks, holder):
        os.close(descriptor)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    mine = os.open(tmp_path, os.O_RDONLY)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        assert not taken(mine)
        process.kill()
        process.wait()
    assert taken(mine)
    os.close(mine)


def test_a_file_system_without_locks_is_no_other_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"):
        taken(0)
