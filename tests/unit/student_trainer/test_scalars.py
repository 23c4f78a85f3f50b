"""TensorBoard reads what is written; a full disk is a fault of the call that met it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seq2seq.errors import UserError
from student_trainer.scalars import ScalarFile


def test_tensorboard_reads_every_value(tmp_path: Path) -> None:
    for first in (1, 3):  # a resumed run adds a file
        scalars = ScalarFile(tmp_path / "tensorboard", first - 1)
        for step in (first, first + 1):
            scalars.add(step, {"train/loss": step / 2, "train/beta": 0.25})
        scalars.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["train/beta", "train/loss"]
    loss = [(e.step, e.value) for e in found.Scalars("train/loss")]
    assert loss == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


def test_what_a_resumed_run_does_again_is_there_once(tmp_path: Path) -> None:
    for after, value in ((0, 1.0), (3, 2.0)):
        scalars = ScalarFile(tmp_path, after)
        for step in range(after + 1, 7):
            scalars.add(step, {"train/loss": value})
        scalars.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(e.step, e.value) for e in found] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)
    ]  # fmt: skip


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = ScalarFile(tmp_path)

    def full(record: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scalars._writer, "write", full)
    with pytest.raises(
        UserError, match=r"cannot write .*tfevents.*: No space left on device; free"
    ):
        scalars.add(1, {"train/loss": 1.0})
    scalars.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/tensorboard/.*: Not a directory"):
        ScalarFile(tmp_path / "file" / "tensorboard")
