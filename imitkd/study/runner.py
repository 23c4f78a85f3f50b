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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console

from imitkd.corpora import read_info
from imitkd.distilling.distil import distil_corpus
from imitkd.serving import serve_arguments, serving
from imitkd.study.cell_files import CellFiles
from imitkd.study.cell_work import TEACHER, CellWork
from imitkd.study.conditions import changed_settings
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
from seq2seq.checkpoint import atomic_file, content_revision
from seq2seq.corpus import read_split
from seq2seq.ensemble import ensemble_revision
from seq2seq.errors import UserError
from student_trainer.run_lock import AlreadyHeldError, held
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam

RESULTS_FILE, TABLE_FILE = "results.json", "table.md"
# How often to look whether another process is done.
_LOOK_S = 1.0

Serve = Callable[[], AbstractContextManager[str]]


class Study:
    """One study.

    Args:
        output: directory of cells, results and table.
        runs: directory of the training runs, which are large and not part of the results.
        only: patterns of the cells to run, ``STUDENT/VARIANT/seedN`` with ``*``; all by default.
            Results are of all that are finished.
        serve: has the teacher served for as long as a block lasts; a process of its own by default.

    Raises:
        UserError: no cell is of a pattern in ``only``.
    """

    def __init__(
        self,
        study: StudyConfig,
        output: Path,
        runs: Path,
        *,
        only: Sequence[str] = (),
        console: Console | None = None,
        serve: Serve | None = None,
    ) -> None:
        if study.distilled is None:
            study = study.model_copy(update={"distilled": runs / "distilled"})
        self._study, self._output, self._runs = study, output, runs
        self._chosen = _chosen(list(cells(study)), only)
        self._console, self._serve = console or Console(), serve or self._served
        self._work = CellWork(study, runs, self._console)

    def run(self) -> dict[str, Any]:
        """Evaluate the teacher, run what is not finished, and score; the results written.

        Raises:
            UserError: a cell cannot be run; what is finished is kept, and the next run goes on.
            TeacherError: the teacher stayed away past its deadline; likewise.
        """
        self._check()
        with self._turn("teacher"):
            if not self._teacher_files().finished:
                self._say("teacher")
                self._work.teacher(self._teacher_files())
        self._check_finished()
        if any(self._is_open(cell) for cell in self._chosen):
            with self._serve() as address:
                # One process writes them; none waits that has no cell to learn from them.
                if needs_distilled(self._chosen):
                    with self._turn("distilled"):
                        self._distil(address)
                self._run_cells(address)
        return self.rescore()

    def _run_cells(self, address: str) -> None:
        every = self._chosen
        for number, cell in enumerate(every, 1):
            try:
                with self._claim(cell.key):
                    if self._is_open(cell) and self._may_begin(cell):
                        self._say(f"cell {number} of {len(every)}: {cell.key}")
                        self._work.finish(cell, self._files(cell), address)
            except AlreadyHeldError:
                self._say(f"cell {number} of {len(every)}: {cell.key} is another process's")

    def _is_open(self, cell: Cell) -> bool:
        """Whether something is left to do for a cell."""
        files = self._files(cell)
        return not files.finished or self._work.to_look(cell, files)

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
        self._check_finished()
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

    def _check_finished(self) -> None:
        """Finished cells are of the study's settings and teacher: no table mixes conditions.

        Raises:
            UserError: one is not.
        """
        teacher = self._teacher_revision()
        for cell in cells(self._study):
            files = self._files(cell)
            if not files.finished:
                continue
            details = files.read_facts().details
            config = cell_config(self._study, cell, address="127.0.0.1:1", runs=self._runs)
            changed = changed_settings(details.get("config", {}), config)
            if teacher is not None and details.get("teacher_revision") not in (None, teacher):
                changed.append("teacher")
            if changed:
                raise UserError(
                    f"{files.path} was made with other settings than the study has now "
                    f"({', '.join(changed)}); remove it to have the cell run again, or name "
                    "another --output"
                )

    def _teacher_revision(self) -> str | None:
        """Of the teacher that the results are of.

        Raises:
            UserError: the study's teacher, where it is at hand, is another one.
        """
        files = self._teacher_files()
        if not files.finished:
            return None
        recorded: str | None = files.read_facts().details.get("revision")
        paths = self._study.teachers
        if all(path.is_dir() for path in paths):
            now = ensemble_revision([content_revision(path) for path in paths])
            if recorded not in (None, now):
                raise UserError(
                    f"{files.path} is of another teacher than {' '.join(map(str, paths))} "
                    f"({recorded}, {now}); name another --output"
                )
        return recorded

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


def _chosen(every: list[Cell], only: Sequence[str]) -> list[Cell]:
    for pattern in only:
        if not any(fnmatchcase(cell.key, pattern) for cell in every):
            raise UserError(
                f"--cells {pattern!r} is no cell of the study; its cells are "
                f"{', '.join(cell.key for cell in every)} (* stands for anything)"
            )
    return [c for c in every if not only or any(fnmatchcase(c.key, p) for p in only)]
