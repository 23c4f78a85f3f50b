"""Running a study, cell by cell; a finished cell is never run again, a begun one goes on.

Several processes may run one study: each takes the next cell that none of the others has.

::

    teacher evaluated -> teacher served -> its own targets written (imitkd data distil)
                                        -> for each cell: train -> evaluate -> cell files
                                        -> results.json, table.md
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from imitkd.corpora import read_info
from imitkd.distilling.distil import distil_corpus
from imitkd.scoring import evaluate_directory
from imitkd.serving import serve_arguments, serving
from imitkd.study.cell_files import CellFacts, CellFiles
from imitkd.study.plan import (
    Cell,
    StudyConfig,
    before_cell,
    cell_config,
    cells,
    needs_distilled,
)
from imitkd.study.scores import References, score_cells
from imitkd.study.table import markdown
from seq2seq.checkpoint import atomic_file
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, dump_config
from student_trainer.run_lock import AlreadyHeldError, held
from student_trainer.training import train
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam

RESULTS_FILE, TABLE_FILE = "results.json", "table.md"
TEACHER = "teacher"
# How often to look whether another process is done.
_LOOK_S = 1.0
# Of the speed: the median of so many passes.
_REPEATS = 3

Serve = Callable[[], AbstractContextManager[str]]


class Study:
    """One study.

    Args:
        output: directory of cells, results and table.
        runs: directory of the training runs, which are large and not part of the results.
        serve: has the teacher served for as long as a block lasts; a process of its own by default.
    """

    def __init__(
        self,
        study: StudyConfig,
        output: Path,
        runs: Path,
        *,
        console: Console | None = None,
        serve: Serve | None = None,
    ) -> None:
        if study.distilled is None:
            study = study.model_copy(update={"distilled": runs / "distilled"})
        self._study, self._output, self._runs = study, output, runs
        self._console, self._serve = console or Console(), serve or self._served

    def run(self) -> dict[str, Any]:
        """Evaluate the teacher, run what is not finished, and score; the results written.

        Raises:
            UserError: a cell cannot be run; what is finished is kept, and the next run goes on.
            TeacherError: the teacher stayed away past its deadline; likewise.
        """
        self._check()
        with self._turn("teacher"):
            self._run_teacher()
        if any(not self._files(cell).finished for cell in cells(self._study)):
            with self._serve() as address:
                # One process writes them; none waits that has no cell to learn from them.
                if needs_distilled(self._study):
                    with self._turn("distilled"):
                        self._distil(address)
                self._run_cells(address)
        return self.rescore()

    def _run_cells(self, address: str) -> None:
        every = list(cells(self._study))
        for number, cell in enumerate(every, 1):
            try:
                with self._claim(cell.key):
                    if not self._files(cell).finished and self._may_begin(cell):
                        self._say(f"cell {number} of {len(every)}: {cell.key}")
                        self._run_cell(cell, address)
            except AlreadyHeldError:
                self._say(f"cell {number} of {len(every)}: {cell.key} is another process's")

    def _may_begin(self, cell: Cell) -> bool:
        """Whether what it goes on from is finished; if not, whoever trains that comes to it."""
        before = before_cell(self._study, cell)
        if before is None or self._files(before).finished:
            return True
        self._say(f"{cell.key} goes on from {before.key}, which another process trains")
        return False

    def _claim(self, part: str) -> AbstractContextManager[Any]:
        """Have a part of the study for this process.

        Raises:
            AlreadyHeldError: another process has it.
        """
        return held(self._runs / "claims" / part)

    @contextmanager
    def _turn(self, part: str) -> Iterator[None]:
        """Like :meth:`_claim`, after whoever has it now."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._claim(part))
                    break
                except AlreadyHeldError:
                    time.sleep(_LOOK_S)
            yield

    def rescore(self) -> dict[str, Any]:
        """Make results and table anew from the texts of the finished cells, and nothing else.

        Raises:
            UserError: no cell is finished, or one is of another corpus.
        """
        found = [self._teacher_files(), *(self._files(cell) for cell in cells(self._study))]
        finished = [files for files in found if files.finished]
        if not finished:
            raise UserError(f"{self._output} has no finished cell; run the study first")
        results = score_cells(self._study, finished, self._references())
        results["corpus"] = {
            "path": str(self._study.corpus),
            "fingerprint": read_info(self._study.corpus).fingerprint,
        }
        results["unfinished"] = [c.key for c in cells(self._study) if not self._files(c).finished]
        self._write(RESULTS_FILE, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        self._write(TABLE_FILE, markdown(results))
        return results

    def _check(self) -> None:
        """The corpus is there, told before anything runs."""
        read_info(self._study.corpus)
        self._references()

    def _distil(self, address: str) -> None:
        """Have the teacher write for the training sources.

        What it wrote before for the same text is kept.
        """
        study = self._study
        assert study.distilled is not None
        self._say(f"teacher-written targets: {study.distilled}")
        sentences = study.train.get("corpus", {}).get("sentences")
        mode = Beam(study.beam, n_best=study.beam)
        with TeacherClient(address) as client:
            distil_corpus(
                client,
                study.corpus,
                study.distilled,
                mode,
                splits=["train"],
                sentences=sentences,
                console=self._console,
            )

    def _references(self) -> References:
        """Of each test split the references of each sentence."""
        found = {}
        for test in self._study.tests:
            examples = read_split(self._study.corpus, test)[: self._study.limit_sentences]
            if not all(e.references for e in examples):
                raise UserError(
                    f"{self._study.corpus} {test} has sentences without references; they cannot be "
                    "scored"
                )
            found[test] = [e.references for e in examples]
        return found

    def _run_teacher(self) -> None:
        files = self._teacher_files()
        if files.finished:
            return
        self._say("teacher")
        found = self._evaluate(self._study.teachers, files)
        details = {"directory": " ".join(map(str, self._study.teachers)), **_described(found)}
        files.write_facts(
            CellFacts(TEACHER, None, None, found["parameters"], found["speeds"], None, details)
        )

    def _run_cell(self, cell: Cell, address: str) -> None:
        files, run = self._files(cell), self._runs / cell.key
        config = cell_config(self._study, cell, address=address, runs=self._runs)
        summary = self._trained(config, run)
        found = self._evaluate(run / "student", files)
        kept = ("batches", "best_step", "validation_bleu", "teacher_revision", "stopped_early")
        details = {
            "config": json.loads(config.model_dump_json(by_alias=True)),
            **{key: summary[key] for key in kept},
            **_described(found),
        }
        facts = CellFacts(
            cell.variant.label,
            cell.student,
            cell.seed,
            found["parameters"],
            found["speeds"],
            summary["train_seconds"],
            details,
        )
        files.write_facts(facts)

    def _trained(self, config: RunConfig, run: Path) -> dict[str, Any]:
        """Train to the end, from where an earlier attempt ended."""
        summary = run / "summary.json"
        if not summary.is_file():
            begun = (run / "config.yaml").is_file()
            if begun:
                _same_run(config, run)
            train(config, run, resume=begun, console=self._console)
        found: dict[str, Any] = json.loads(summary.read_text())
        found["train_seconds"] = _train_seconds(run)
        return found

    def _evaluate(self, model: Path | Sequence[Path], files: CellFiles) -> dict[str, Any]:
        """Translate every test split greedily and with a beam; texts kept, speeds returned."""
        study, speeds, last = self._study, {}, {}
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
                    speeds[test] = last["sentences_per_s"]
        return last | {"speeds": speeds}

    def _files(self, cell: Cell) -> CellFiles:
        return CellFiles(self._output / "cells" / cell.key)

    def _teacher_files(self) -> CellFiles:
        return CellFiles(self._output / "cells" / TEACHER)

    @contextmanager
    def _served(self) -> Iterator[str]:
        arguments = serve_arguments(*self._study.teachers, threads=self._study.threads)
        arguments += self._study.serve
        with serving(arguments, self._runs / f"teacher.{os.getpid()}.log") as address:
            yield address

    def _write(self, name: str, text: str) -> None:
        with atomic_file(self._output / name) as file:
            file.write_text(text, "utf-8")

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)


def _described(found: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation says of model and machine."""
    kept = {key: found[key] for key in ("name", "revision", "megabytes", "threads", "device")}
    return kept | {"machine": platform.processor() or platform.machine()}


def _same_run(config: RunConfig, run: Path) -> None:
    """A begun run is of the same settings; where the teacher answers does not matter.

    Raises:
        UserError: it is not.
    """
    from student_trainer.config import load_config

    def plain(one: RunConfig) -> str:
        return dump_config(one.model_copy(update={"teacher": None}))

    with contextlib.suppress(UserError):
        if plain(load_config(run / "config.yaml")) == plain(config):
            return
    raise UserError(
        f"{run} holds a run of other settings than the study has now; remove it, or name another "
        "directory with --runs"
    )


def _train_seconds(run: Path) -> float:
    """Wall seconds of all steps, of every attempt whose steps count."""
    seconds = 0.0
    with open(run / "metrics.jsonl") as file:
        for line in file:
            record = json.loads(line)
            if record["kind"] == "step":
                seconds += record["wall_s"]
    return seconds
