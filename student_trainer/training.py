"""A whole run: directory, executor, driver, summary."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from seq2seq.checkpoint import save_model_directory
from seq2seq.data import Fit
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, dump_config
from student_trainer.driver import Driver, TrainingResult
from student_trainer.executor import Executor
from student_trainer.inline import InlineExecutor
from student_trainer.observers import MetricsObserver, ProgressObserver
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import (
    build_limits,
    make_data,
    make_learner,
    make_model,
    make_teacher,
    make_worker,
    prepare_vocabulary,
)
from student_trainer.types import ValidationReport
from teacher_service.errors import TeacherError

_log = logging.getLogger(__name__)


def make_executor(config: RunConfig, run: RunDirectory) -> Executor:
    """The executor of the configured runtime, its vocabulary already in the run directory.

    Raises:
        UserError: Ray is asked for and not installed.
    """
    if config.runtime == "ray":
        try:
            from student_trainer.ray_runtime.executor import RayExecutor
        except ImportError as error:
            raise UserError(
                f"runtime ray needs Ray ({error}); pip install 'imitkd[trainer]' or use "
                "--runtime inline"
            ) from error
        return RayExecutor(config, run.path)
    vocabulary = prepare_vocabulary(config, run.path)
    teacher = make_teacher(config, vocabulary)
    worker = make_worker(config, vocabulary, make_data(config, vocabulary), teacher)
    learner = make_learner(config, vocabulary, run)
    return InlineExecutor(learner, worker, teacher.close if teacher else lambda: None)


def teacher_revision(config: RunConfig, run: RunDirectory) -> str | None:
    """Revision of the teacher that answers, checked against the run's vocabulary and lengths.

    Raises:
        TeacherError: absent past the deadline, or of another vocabulary.
        UserError: the student takes longer sentences than the teacher can score.
    """
    teacher = make_teacher(config, prepare_vocabulary(config, run.path))
    if teacher is None:
        return None
    with contextlib.closing(teacher):
        info = teacher.model_info()
    longest = {"max_source_length": info.max_source_length}
    longest |= {"max_target_length": info.max_target_length}
    over = [
        f"model.{key}={longest[key]}"
        for key, ours in zip(longest, build_limits(config), strict=True)
        if ours > longest[key]
    ]
    if over:
        raise UserError(
            f"the student takes longer sentences than teacher {info.name} can score; set "
            + " ".join(over)
        )
    return info.revision


def train(
    config: RunConfig, output: Path, *, resume: bool = False, console: Console | None = None
) -> TrainingResult:
    """Train, or go on training; the run directory ends with ``student/`` and ``summary.json``.

    A new run that cannot even begin leaves nothing behind.

    Raises:
        UserError: configuration, data, disk, or a changed teacher on resume.
        TeacherError: the teacher stayed away past its deadline; resume continues.
    """
    run = RunDirectory(output)
    run.create(dump_config(config), resume=resume)
    try:
        revision = teacher_revision(config, run)
        if not run.initial.is_dir():
            _save_initial(config, run)
        executor = make_executor(config.pinned_to(revision), run)
    except BaseException:
        run.discard()
        raise
    observers: list[Any] = []
    try:
        start, best = 0, None
        _tell_misfits(config, executor.fit)
        if resume:
            start, best = _restore(executor, run, revision)
            run.write_config(dump_config(config))
        with _resumable():
            observers.append(MetricsObserver(run))
            if console is not None:
                observers.append(ProgressObserver(config.optimiser.steps, start, console))
            driver = Driver(config, executor, observers, {"teacher_revision": revision})
            result = driver.run(start, best)
            run.write_summary(_summary(config, run, result, revision, executor.fit))
    finally:
        for observer in observers:
            observer.close()
        executor.close()
    return result


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Faults inside the block say that the run can go on."""
    try:
        yield
    except (UserError, TeacherError) as error:
        if "resume" not in str(error):
            error.args = (f"{error}; then continue with --resume",)
        raise


def _tell_misfits(config: RunConfig, fit: Fit) -> None:
    source, target = build_limits(config)
    if fit.left_out:
        _log.warning(
            "%d training sentences are longer than the student's limits (%d source and %d target "
            "ids, end symbol included) and are left out; model.max_source_length and "
            "model.max_target_length set them",
            fit.left_out,
            source,
            target,
        )
    if fit.cut:
        _log.warning(
            "%d training sources are cut to their first %d ids, end symbol included; "
            "model.max_source_length sets how many",
            fit.cut,
            source,
        )


def _save_initial(config: RunConfig, run: RunDirectory) -> None:
    """``initial/``: the student as it starts, a model directory like any other."""
    vocabulary = prepare_vocabulary(config, run.path)
    model = make_model(config, vocabulary)
    card = f"# {config.name}, before training\n\nThe student of `config.yaml` as it starts.\n"
    name = f"{config.name}-initial"
    save_model_directory(run.initial, model, vocabulary, name=name, card=card)


def _restore(
    executor: Executor, run: RunDirectory, revision: str | None
) -> tuple[int, ValidationReport | None]:
    """Steps done at the newest checkpoint and the best evaluation so far.

    Metrics of later steps are dropped.

    Raises:
        UserError: another teacher answers than the run began with.
    """
    start, extra = executor.restore()
    kept = extra or {}
    before = kept.get("teacher_revision")
    if before != revision and extra is not None:
        raise UserError(
            f"the run began with teacher {before}, now {revision} answers; serve the first one "
            "again or begin a new run"
        )
    run.rewind_metrics(start)
    best = kept.get("best")
    return start, ValidationReport(**best) if best else None


def _summary(
    config: RunConfig,
    run: RunDirectory,
    result: TrainingResult,
    revision: str | None,
    fit: Fit,
) -> dict[str, Any]:
    totals = run.totals()
    best = replace(result.best, examples=[]) if result.best is not None else None
    return {
        "name": config.name,
        "method": config.method,
        "runtime": config.runtime,
        "teacher_revision": revision,
        "sentences_left_out": fit.left_out,
        "sources_cut": fit.cut,
        "batches": result.steps,
        "stopped_early": result.stopped_early,
        "train_seconds": result.train_s,
        "validation_seconds": result.validation_s,
        "best_step": best.step if best else None,
        "validation_bleu": best.bleu if best else None,
        "validation_chrf": best.chrf if best else None,
        "validation_rouge1": best.rouge1 if best else None,
        "validation_rouge2": best.rouge2 if best else None,
        "validation_rougeL": best.rougeL if best else None,
        "validation_loss": best.loss if best else None,
        "student": str(run.student),
    } | totals
