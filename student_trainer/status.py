"""How a run stands, read from its directory alone, wherever it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seq2seq.errors import UserError
from student_trainer.config import load_config
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import is_held, read_holder

# Of metrics.jsonl, from its end: some hundred steps.
_LOOK_BACK = 1 << 17
_LOSSES = 5


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Attributes:
        state: ``alive``: a process runs it; ``ended``; ``stale``: neither.
        holder: process and machine that runs it, or ran it last.
        step, steps: done, of how many; ``checkpointed`` of them would survive the process.
        silent_s: seconds since it last wrote a step or validation; None where it never did.
        sentences_per_s: of the last steps.
        eta_s: seconds to go at their rate, validations not counted; None where unknown or ended.
        losses: of the last steps, latest last.
        validation: the last one's scores by name.
        advice: of the last verdict.
    """

    state: str
    holder: str | None
    step: int
    steps: int
    checkpointed: int
    silent_s: float | None
    sentences_per_s: float | None
    eta_s: float | None
    losses: list[float]
    validation: dict[str, float] | None
    advice: str | None


def read_status(run: RunDirectory, clock: Callable[[], float] = time.time) -> RunStatus:
    """Look at a run; quick however long it is.

    Raises:
        UserError: there is no run, or its files cannot be read.
    """
    if not run.config_file.exists():
        raise UserError(f"{run.path} holds no run; give the directory that --output named")
    steps = load_config(run.config_file).optimiser.steps
    records = run.metrics.tail(_LOOK_BACK)
    taken = [r for r in records if r["kind"] == "step"]
    validation = _last(records, "validation")
    verdict = _last(records, "verdict")
    step = taken[-1]["step"] if taken else run.checkpointed()
    alive = is_held(run.path, clock)
    summary = _summary(run)
    ended = summary is not None and summary["batches"] >= step
    wall_s = sum(r["wall_s"] for r in taken)
    rate = len(taken) / wall_s if wall_s else None
    holder = read_holder(run.path, clock)
    written = run.metrics.path
    return RunStatus(
        state="alive" if alive else "ended" if ended else "stale",
        holder=f"process {holder.pid} on {holder.host}" if holder is not None else None,
        step=step,
        steps=steps,
        checkpointed=run.checkpointed(),
        silent_s=max(0.0, clock() - written.stat().st_mtime) if written.exists() else None,
        sentences_per_s=sum(r["sentences"] for r in taken) / wall_s if wall_s else None,
        eta_s=(steps - step) / rate if alive and rate else None,
        losses=[r["loss"] for r in taken[-_LOSSES:]],
        validation={k: validation[k] for k in ("step", "bleu", "chrf", "loss")}
        if validation is not None
        else None,
        advice=verdict["advice"] if verdict is not None else None,
    )


def _last(records: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((r for r in reversed(records) if r["kind"] == kind), None)


def _summary(run: RunDirectory) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.summary_file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{run.summary_file} cannot be read ({error})") from error
    return found
