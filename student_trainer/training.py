"""A whole run: directory, executor, driver, summary."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
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
from student_trainer.ledger import Beginning, Ledger
from student_trainer.local_group import local_group
from student_trainer.observers import MetricsObserver, ProgressObserver, PrometheusObserver
from student_trainer.resuming import Standing, kept, restore
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import held
from student_trainer.setup import (
    make_learner,
    make_model,
    make_worker,
    prepare_vocabulary,
)
from student_trainer.source_config import TeacherRevision
from student_trainer.teachers import make_teacher, revision_of, teacher_infos
from student_trainer.training_data import build_limits, make_data
from student_trainer.verdict import StageTimes, judge
from teacher_service.codec import ModelInfo
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
        return RayExecutor(config, run)
    vocabulary = prepare_vocabulary(config, run.path)
    teacher = make_teacher(config, vocabulary)
    worker = make_worker(config, vocabulary, make_data(config, vocabulary, run.path), teacher)
    with contextlib.ExitStack() as stack:
        if teacher is not None:
            stack.callback(teacher.close)
        group = stack.enter_context(local_group(config, vocabulary))
        learner = make_learner(config, vocabulary, run, group)
        return InlineExecutor(learner, worker, stack.pop_all().close)


def teacher_revision(config: RunConfig, run: RunDirectory) -> TeacherRevision:
    """Revision of the teacher that answers, or of each, checked against the run's vocabulary and
    lengths.

    Raises:
        TeacherError: absent past the deadline, or of another vocabulary.
        UserError: the student takes longer sentences than the teacher can score.
    """
    teacher = make_teacher(config, prepare_vocabulary(config, run.path))
    if teacher is None or config.teacher is None:
        return None
    with contextlib.closing(teacher):
        infos = teacher_infos(teacher, config.teacher)
    for info in infos.values() if isinstance(infos, dict) else (infos,):
        _check_lengths(config, info)
    return revision_of(infos)


def _check_lengths(config: RunConfig, info: ModelInfo) -> None:
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
    with contextlib.ExitStack() as stack:
        try:
            run.fence = stack.enter_context(held(run.path))
            revision = teacher_revision(config, run)
            if not run.initial.is_dir():
                _save_initial(config, run)
            executor = make_executor(config.pinned_to(revision), run)
        except BaseException:
            run.discard()
            raise
        stack.callback(executor.close)
        return _train(config, run, executor, revision, resume, console)


def interrupted(output: Path) -> str:
    """One line for whoever ended a run by hand."""
    run = RunDirectory(output)
    if not run.config_file.exists():
        return "interrupted; nothing was begun"
    return f"interrupted; {output} holds {run.checkpointed():,} steps, continue with --resume"


def _train(
    config: RunConfig,
    run: RunDirectory,
    executor: Executor,
    revision: TeacherRevision,
    resume: bool,
    console: Console | None,
) -> TrainingResult:
    """The run from where it stands to its end."""
    _tell_misfits(config, executor.fit)
    standing = Standing()
    if resume:
        standing = restore(config, executor, run, revision)
        run.write_config(dump_config(config))
    with _resumable(), contextlib.ExitStack() as stack:
        ledger = Ledger(run, _beginning(config, run, executor, standing.start, revision))
        observers: list[Any] = [ledger, MetricsObserver(config, run, standing.start)]
        if config.metrics_address is not None:
            observers.append(PrometheusObserver(config))
        if console is not None:
            observers.append(ProgressObserver(config.optimiser.steps, standing, console))
        for observer in observers:
            stack.callback(observer.close)
        driver = Driver(
            config,
            executor,
            observers,
            kept(config, executor, revision),
            before_checkpoint=ledger.sync,
        )
        result = driver.run(standing.start, standing.best, standing.spent)
        summary = _summary(config, run, result, revision, executor.fit)
        run.write_summary(summary)
    if console is not None:
        console.print(summary["verdict"]["advice"])
    return result


def _beginning(
    config: RunConfig, run: RunDirectory, executor: Executor, start: int, revision: TeacherRevision
) -> Beginning:
    assert run.fence is not None
    return Beginning(
        token=run.fence.token,
        step=start,
        plan=executor.plan,
        pool=config.rollout.pool,
        lag=config.rollout.lag,
        shards=config.batch.shards,
        teacher=revision,
    )


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


def _summary(
    config: RunConfig,
    run: RunDirectory,
    result: TrainingResult,
    revision: TeacherRevision,
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
        "verdict": asdict(judge(StageTimes.of_totals(totals), config)),
    } | totals
