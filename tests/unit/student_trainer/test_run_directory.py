"""Files of a run are whole or absent, also where the disk is full."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seq2seq import checkpoint as checkpoint_module
from seq2seq.errors import UserError
from student_trainer import jsonl as jsonl_module
from student_trainer import run_directory as run_module
from student_trainer.run_directory import Checkpoint, RunDirectory


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"model/weight": torch.full((3,), float(step))}, {"best_step": step})


def tree(path: Path) -> set[str]:
    """Everything below, hidden files included."""
    return {str(p.relative_to(path)) for p in path.rglob("*")}


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create("name: first\n", resume=False)
    return run


def test_a_second_run_does_not_overwrite_the_first(run):
    with pytest.raises(UserError, match=r"already holds a run; .*--resume"):
        RunDirectory(run.path).create("name: second\n", resume=False)
    assert run.config_file.read_text() == "name: first\n"


def test_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        RunDirectory(tmp_path / "none").create("name: x\n", resume=True)
    assert tree(tmp_path) == set()


def test_the_newest_two_checkpoints_stay(run):
    assert run.load_checkpoint() is None
    for step in (5, 10, 1000, 15000):
        run.save_checkpoint(checkpoint(step))
    found = run.load_checkpoint()
    assert found is not None
    assert (found.step, found.state["best_step"]) == (15000, 15000)
    assert found.tensors["model/weight"].tolist() == [15000.0] * 3
    assert len(list((run.path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (run_module, "save_file"),
        (run_module.Path, "write_text"),
        (checkpoint_module, "_sync_tree"),
        (checkpoint_module.tempfile, "mkdtemp"),
    ],
)
def test_a_full_disk_costs_the_new_checkpoint_only(run, monkeypatch, module, name):
    run.save_checkpoint(checkpoint(5))
    before = tree(run.path)
    monkeypatch.setattr(module, name, full_disk)
    with pytest.raises(UserError) as caught:
        run.save_checkpoint(checkpoint(10))
    monkeypatch.undo()
    message = str(caught.value)
    assert "\n" not in message
    assert "step-000000010" in message and "No space left on device; free disk space" in message
    assert tree(run.path) == before
    found = run.load_checkpoint()
    assert found is not None and found.step == 5


def test_a_really_full_disk(run):
    """Not simulated: a file whose every write the kernel refuses."""
    if not stat.S_ISCHR(os.stat("/dev/full").st_mode):
        pytest.skip("no /dev/full here")
    run.metrics.path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics.jsonl: No space left on device; .*--resume"):
        run.append_metrics({"kind": "step", "step": 1})


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        RunDirectory(tmp_path / "file" / "run").create("name: x\n", resume=False)


@pytest.mark.parametrize("write", ["write_summary", "rewind_metrics"])
def test_a_file_that_cannot_be_written_stays_as_it_was(run, monkeypatch, write):
    run.write_summary({"batches": 1})
    run.append_metrics({"kind": "step", "step": 1})
    before = {p: (run.path / p).read_bytes() for p in tree(run.path)}
    monkeypatch.setattr(run_module.Path, "write_text", full_disk)
    monkeypatch.setattr(jsonl_module.os, "truncate", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        getattr(run, write)({} if write == "write_summary" else 0)
    monkeypatch.undo()
    assert {p: (run.path / p).read_bytes() for p in tree(run.path)} == before


def test_a_torn_line_does_not_stay(run, monkeypatch):
    run.append_metrics({"kind": "step", "step": 1})
    whole = run.metrics.path.read_bytes()
    opened: Callable[..., Any] = open

    class Half:
        """A file on a disk with room for half a line."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, line: bytes) -> int:
            return int(self._file.write(line[: len(line) // 2]))

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    monkeypatch.setattr(jsonl_module, "open", lambda *a, **k: Half(opened(*a, **k)), raising=False)
    with pytest.raises(UserError, match="No space left"):
        run.append_metrics({"kind": "step", "step": 2})
    monkeypatch.undo()
    assert run.metrics.path.read_bytes() == whole
    run.append_metrics({"kind": "step", "step": 2})
    assert [json.loads(x)["step"] for x in run.metrics.path.read_text().splitlines()] == [1, 2]


def test_records_after_the_checkpoint_and_what_a_crash_tore_are_dropped(run):
    for step in range(1, 6):
        run.append_metrics({"kind": "step", "step": step})
        run.append_metrics({"kind": "validation", "step": step})
    with open(run.metrics.path, "a") as file:
        file.write('{"kind": "step", "st')
    run.rewind_metrics(3)
    run.append_metrics({"kind": "step", "step": 4})
    records = [json.loads(x) for x in run.metrics.path.read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        *((kind, step) for step in (1, 2, 3) for kind in ("step", "validation")),
        ("step", 4),
    ]


def test_rewinding_a_run_without_metrics(run):
    run.rewind_metrics(0)
    assert not run.metrics.path.exists()


def test_totals_are_sums_over_steps(run):
    record = {
        "kind": "step",
        "sentences": 8,
        "positions": 80,
        "scored_sentences": 6,
        "scored_positions": 60,
        "generate_s": 0.5,
        "score_s": 0.25,
        "learn_s": 1.0,
        "idle_s": 0.125,
        "teacher_s": 0.0625,
        "wall_s": 2.0,
        "worker_s": 3.0,
    }
    assert run.totals()["sentences"] == 0
    for _ in range(4):
        run.append_metrics(record)
        run.append_metrics({"kind": "validation", "bleu": 3.0})
    assert run.totals() == {
        "sentences": 32,
        "positions": 320,
        "sentences_scored": 24,
        "positions_scored": 240,
        "generate_seconds": 2.0,
        "score_seconds": 1.0,
        "learn_seconds": 4.0,
        "learner_idle_seconds": 0.5,
        "teacher_seconds": 0.25,
        "step_seconds": 8.0,
        "worker_seconds": 12.0,
    }
