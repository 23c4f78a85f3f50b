"""Ctrl-C ends a run with one line, whoever runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from student_trainer.training import interrupted

ROOT = Path(__file__).parents[2]
LINE = "interrupted; run holds {:,} steps, continue with --resume"


def begun(command: list[str], config: dict[str, Any], directory: Path) -> subprocess.Popen[str]:
    """A run in a process group of its own, as a terminal starts it, that never ends."""
    plain = config | {"optimiser": {"steps": 100_000, "warmup": 0}, "checkpoint_every": 1}
    (directory / "config.yaml").write_text(yaml.safe_dump(plain))
    return subprocess.Popen(
        [sys.executable, "-m", *command, "config.yaml", "--output", "run"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "runtime"), [(["student_trainer"], "ray"), (["imitkd", "train"], "inline")]
)
def test_ctrl_c_is_one_line(
    plain_config: dict[str, Any], tmp_path: Path, command: list[str], runtime: str
) -> None:
    run = tmp_path / "run"
    # Inline the learner has a child, which the terminal's Ctrl-C reaches as well.
    changes = {"runtime": runtime, "learner_processes": 2 if runtime == "inline" else 1}
    with begun(command, plain_config | changes, tmp_path) as process:
        try:
            while not any(run.glob("checkpoints/step-*")):
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)  # all of the group, as a terminal does
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    done = max(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))
    assert (process.returncode, said) == (130, LINE.format(done) + "\n")


def test_a_run_that_did_not_begin_is_not_to_be_resumed(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "run") == "interrupted; nothing was begun"
