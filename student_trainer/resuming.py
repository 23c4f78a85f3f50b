"""Going on with a run: what must be as it was, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.driver import Spent
from student_trainer.executor import Executor
from student_trainer.run_directory import RunDirectory
from student_trainer.source_config import TeacherRevision
from student_trainer.training_data import OTHER_BATCHES
from student_trainer.types import ValidationReport


@dataclass(frozen=True)
class Standing:
    """Where a run stands: steps done, its best evaluation, seconds spent."""

    start: int = 0
    best: ValidationReport | None = None
    spent: Spent = field(default_factory=Spent)


def kept(config: RunConfig, executor: Executor, revision: TeacherRevision) -> dict[str, Any]:
    """What every checkpoint keeps of the run, to be compared when it goes on."""
    return {
        "teacher_revision": revision,
        "plan": executor.plan,
        "steps": config.optimiser.steps,
        "rule": _rule(config),
    }


def restore(
    config: RunConfig, executor: Executor, run: RunDirectory, revision: TeacherRevision
) -> Standing:
    """Go back to the newest checkpoint; metrics of later steps are dropped.

    Raises:
        UserError: another teacher answers than the run began with, and the configuration does not
            name it; batches, staleness or schedules would not be those the run began with.
    """
    start, extra = executor.restore()
    if extra is not None:
        _check_teacher(config, extra.get("teacher_revision"), revision)
        _check_batches(config, executor.plan, extra)
        _check_steps(config, start, extra.get("steps"))
    run.rewind_metrics(start)
    found = extra or {}
    best, spent = found.get("best"), found.get("spent")
    return Standing(
        start,
        ValidationReport(**best) if best else None,
        Spent(**spent) if spent else Spent(),
    )


def _rule(config: RunConfig) -> dict[str, int]:
    """What fixes, beside the plan of batches, who learns what from which weights."""
    return {
        "seed": config.seed,
        "batch.shards": config.batch.shards,
        "rollout.pool": config.rollout.pool,
        "rollout.lag": config.rollout.lag,
    }


def _check_teacher(config: RunConfig, before: TeacherRevision, now: TeacherRevision) -> None:
    wanted = config.teacher.revision if config.teacher is not None else None
    if before != now and (now is None or wanted != now):
        raise UserError(
            f"the run began with teacher {before}, now {now} answers; serve the first one again, "
            f"go on with this one on purpose (teacher.revision={now}), or begin a new run"
        )


def _check_batches(config: RunConfig, plan: str, extra: dict[str, Any]) -> None:
    rule = extra.get("rule", {})
    changed = [f"{k}={rule[k]}" for k, v in _rule(config).items() if rule.get(k, v) != v]
    if changed:
        raise UserError(
            f"the run began with {' '.join(changed)}, and batches would be learnt twice or never; "
            "resume with the same or begin a new run"
        )
    if extra.get("plan", plan) != plan:
        raise UserError(OTHER_BATCHES)


def _check_steps(config: RunConfig, start: int, before: int | None) -> None:
    """Whether schedules give the steps already done what they were given."""
    steps = config.optimiser.steps
    if before is None or before == steps:
        return
    laid_out = [
        f"{section}={value}"
        for section, value, depends in (
            (
                "optimiser.schedule",
                config.optimiser.schedule,
                config.optimiser.schedule in ("linear", "cosine"),
            ),
            ("optimiser.cooldown", config.optimiser.cooldown, config.optimiser.cooldown > 0),
            (
                "mixing.schedule",
                config.mixing.schedule,
                config.student_writes and config.mixing.schedule not in (None, "constant"),
            ),
        )
        if depends
    ]
    if laid_out:
        raise UserError(
            f"the run was laid out for {before} steps and {', '.join(laid_out)} would give other "
            f"values at step {start} of {steps}; resume with optimiser.steps={before}, or go on "
            "at constant ones (optimiser.schedule=constant optimiser.cooldown=0 "
            "mixing.schedule=constant mixing.value=...)"
        )
