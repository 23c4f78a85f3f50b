"""Asking a run, while it is on, for another number of rollout workers.

The request is a file in the run directory, so it can be made from anywhere that sees it. It names
the token of the process that holds the run: one that resumes it goes by its configuration again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from seq2seq.checkpoint import atomic_file
from seq2seq.errors import UserError
from student_trainer.config import load_config
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import is_held, read_holder

REQUEST_FILE = "scale.json"


def request_workers(
    run: RunDirectory, workers: int, clock: Callable[[], float] = time.time
) -> None:
    """Ask the process that holds ``run`` for so many workers; it looks before every step.

    Raises:
        UserError: nobody runs it, or in one process, which has no workers of its own.
    """
    if not run.config_file.exists():
        raise UserError(f"{run.path} holds no run; give the directory that --output named")
    if load_config(run.config_file).runtime != "ray":
        raise UserError(f"{run.path} runs in one process (runtime inline), which has no workers")
    holder = read_holder(run.path, clock)
    if holder is None or not is_held(run.path, clock):
        raise UserError(
            f"no process runs {run.path} now; continue it with --resume and workers={workers}"
        )
    with atomic_file(_file(run)) as fresh:
        fresh.write_text(json.dumps({"token": holder.token, "workers": workers}) + "\n")


def requested_workers(run: RunDirectory) -> int | None:
    """How many workers this process was asked for; None where nobody asked, or asked another.

    Raises:
        UserError: the request cannot be read.
    """
    path = _file(run)
    try:
        found = json.loads(path.read_text())
        token, workers = int(found["token"]), int(found["workers"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it") from error
    if run.fence is None or token != run.fence.token or workers < 1:
        return None
    return workers


def _file(run: RunDirectory) -> Path:
    return run.path / REQUEST_FILE
