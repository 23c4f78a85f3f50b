"""What is done for one cell: train, evaluate, look at the student's own mistakes."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from imitkd.analysing import Question, analyse_run
from imitkd.scoring import evaluate_directory
from imitkd.study.cell_files import CellFacts, CellFiles
from imitkd.study.conditions import changed_settings
from imitkd.study.plan import Cell, StudyConfig, cell_config
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, load_config
from student_trainer.run_directory import RunDirectory
from student_trainer.training import train

TEACHER = "teacher"
# Of the speed: the median of so many passes.
_REPEATS = 3
# Sentences of the first test split that the exposure-bias picture is made of.
_ANALYSED = 500
# Of the training's summary, for readers.
_KEPT = (
    "batches", "best_step", "validation_bleu", "validation_rouge1", "teacher_revision",
    "stopped_early",
)  # fmt: skip


@dataclass(frozen=True)
class CellWork:
    """Carries out the cells of a study.

    Attributes:
        runs: directory of the training runs.
    """

    study: StudyConfig
    runs: Path
    console: Console

    def teacher(self, files: CellFiles) -> None:
        """Evaluate the study's teacher."""
        found = self._evaluate(self.study.teachers, files)
        details = {"directory": " ".join(map(str, self.study.teachers)), **_described(found)}
        files.write_facts(
            CellFacts(TEACHER, None, None, found["parameters"], found["speeds"], None, details)
        )

    def finish(self, cell: Cell, files: CellFiles, address: str) -> None:
        """Do what has not been done for a cell; its facts come last.

        Raises:
            UserError: its run is of other settings, or it cannot be run.
            TeacherError: the teacher stayed away past its deadline.
        """
        config = cell_config(self.study, cell, address=address, runs=self.runs)
        if not files.finished:
            summary = self._trained(config, cell)
            found = self._evaluate(self._run(cell).student, files)
            self._look(cell, files, address)
            files.write_facts(_facts(cell, config, summary, found))
        elif self.to_look(cell, files):
            self._look(cell, files, address)

    def to_look(self, cell: Cell, files: CellFiles) -> bool:
        """Whether a finished cell lacks its analysis, and its student is at hand for one."""
        return files.finished and not files.analysed and self._run(cell).student.is_dir()

    def _run(self, cell: Cell) -> RunDirectory:
        return RunDirectory(self.runs / cell.key)

    def _trained(self, config: RunConfig, cell: Cell) -> dict[str, Any]:
        """Train to the end, from where an earlier attempt ended."""
        run = self._run(cell)
        begun = run.config_file.is_file()
        if begun:
            _same_run(config, run)
        if not run.summary_file.is_file():
            train(config, run.path, resume=begun, console=self.console)
        found: dict[str, Any] = json.loads(run.summary_file.read_text())
        steps = (record for record in run.metrics.read() if record["kind"] == "step")
        # Of every attempt whose steps count.
        return found | {"train_seconds": sum(record["wall_s"] for record in steps)}

    def _look(self, cell: Cell, files: CellFiles, address: str) -> None:
        """The learning curve, and the exposure-bias picture."""
        run, study = self._run(cell), self.study
        validations = [r for r in run.metrics.read() if r["kind"] == "validation"]
        sentences = min(study.limit_sentences or _ANALYSED, _ANALYSED)
        question = Question(study.corpus, study.tests[0], sentences, address=[address])
        files.write_curve(study.validated_by, validations)
        files.write_analysis(analyse_run(run.path, question))

    def _evaluate(self, model: Path | Sequence[Path], files: CellFiles) -> dict[str, Any]:
        """Translate every test split greedily and with a beam; texts kept, speeds returned."""
        study, speeds, last = self.study, {}, {}
        for test in study.tests:
            for beam, how in ((1, "greedy"), (study.beam, f"beam{study.beam}")):
                last = evaluate_directory(
                    model,
                    study.corpus,
                    test,
                    beam=beam,
                    sentences=study.limit_sentences,
                    threads=study.threads,
                    repeats=_REPEATS if beam == 1 else 1,
                )
                files.write_texts(test, how, last["translations"])
                if beam == 1:
                    # Other cells that are trained beside this one take the clock's seconds.
                    speeds[test] = last["sentences"] * study.threads / last["cpu_seconds"]
        return last | {"speeds": speeds}


def _facts(
    cell: Cell, config: RunConfig, summary: dict[str, Any], found: dict[str, Any]
) -> CellFacts:
    details = {
        "config": config.model_dump(mode="json", by_alias=True),
        **{key: summary[key] for key in _KEPT if key in summary},
        **_described(found),
    }
    return CellFacts(
        cell.variant.label,
        cell.student,
        cell.seed,
        found["parameters"],
        found["speeds"],
        summary["train_seconds"],
        details,
    )


def _described(found: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation says of model and machine."""
    kept = {key: found[key] for key in ("name", "revision", "megabytes", "threads", "device")}
    return kept | {"machine": platform.processor() or platform.machine()}


def _same_run(config: RunConfig, run: RunDirectory) -> None:
    """A run that is there is of the study's settings.

    Raises:
        UserError: it is not.
    """
    there = load_config(run.config_file).model_dump(mode="json", by_alias=True)
    if changed := changed_settings(there, config):
        raise UserError(
            f"{run.path} holds a run of other settings than the study has now "
            f"({', '.join(changed)}); remove it, or name another directory with --runs"
        )
