"""`imitkd analyse`: the exposure-bias picture of finished runs, one JSON file a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imitkd.asking import connect
from imitkd.exposure import Exposure
from imitkd.serving import serve_arguments, serving
from seq2seq.checkpoint import atomic_file
from seq2seq.corpus import Example, read_split
from seq2seq.decoding import LengthLimit
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, load_config
from student_trainer.run_directory import RunDirectory
from teacher_service.client import TeacherClient

ANALYSIS_FILE = "analysis.json"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Question:
    """What is analysed; None: as the run has it.

    Attributes:
        teacher: model directories to be served meanwhile; several are an ensemble.
        address: of a served teacher.
        sentences: the first so many of the split.
        beam: of the teacher's texts.
    """

    corpus: Path | None = None
    split: str = "test"
    sentences: int = 500
    teacher: Sequence[Path] = ()
    address: Sequence[str] | None = None
    token_file: Path | None = None
    beam: int = 1


def analyse_runs(runs: Sequence[Path], question: Question) -> dict[Path, dict[str, Any]]:
    """Analyse run after run and write ``RUN/analysis.json``; what was written, by run.

    Raises:
        UserError: not a finished run, no references, another vocabulary, no teacher named.
        TeacherError: the teacher does not answer.
    """
    for run in runs:  # a fault in the last is told before the first
        _config(run)
    found = {}
    for run in runs:
        found[run] = analyse_run(run, question)
        with atomic_file(run / ANALYSIS_FILE) as file:
            file.write_text(json.dumps(found[run], indent=2, ensure_ascii=False) + "\n")
    return found


def analyse_run(run: Path, question: Question) -> dict[str, Any]:
    """The exposure-bias picture of a finished run.

    Raises:
        UserError, TeacherError: as :func:`analyse_runs`.
    """
    config = _config(run)
    corpus = question.corpus or config.corpus.only
    examples = _examples(corpus, question)
    limit = LengthLimit(**config.rollout.limit.model_dump())
    metric = config.validation.metric
    where = {"run": config.name, "method": config.method}
    where |= {"corpus": corpus.name, "split": question.split}
    with _teacher(question, config, corpus) as client:
        exposure = Exposure(client, examples, metric=metric, beam=question.beam, limit=limit)
        return where | exposure.analyse(RunDirectory(run).student)


def _config(run: Path) -> RunConfig:
    directory = RunDirectory(run)
    if not directory.config_file.is_file() or not directory.student.is_dir():
        raise UserError(f"{run} is no finished run: config.yaml or student/ is missing")
    return load_config(directory.config_file)


def _examples(corpus: Path, question: Question) -> list[Example]:
    examples = read_split(corpus, question.split)[: question.sentences]
    if not all(e.references for e in examples):
        raise UserError(
            f"{corpus} {question.split} has sentences without references; choose another --split"
        )
    return examples


@contextmanager
def _teacher(question: Question, config: RunConfig, corpus: Path) -> Iterator[TeacherClient]:
    """A client of the teacher that is named, or of the one that the run learnt this corpus from."""
    if question.teacher:
        with TemporaryDirectory() as logs:
            log = Path(logs) / "teacher.log"
            with (
                serving(serve_arguments(*question.teacher), log) as address,
                connect(address, patience_s=_PATIENCE_S) as client,
            ):
                yield client
        return
    address_asked = question.address or _address_of_run(config, corpus)
    if not address_asked:
        raise UserError(
            f"run {config.name} names no teacher that answers; give --teacher DIR or --address"
        )
    with connect(address_asked, question.token_file, patience_s=_PATIENCE_S) as client:
        yield client


def _address_of_run(config: RunConfig, corpus: Path) -> Sequence[str] | None:
    if config.teacher is None:
        return None
    known = config.corpus.directories.items()
    routes = [
        config.teacher.routes.get(n) for n, path in known if path.resolve() == corpus.resolve()
    ]
    return next(filter(None, routes), config.teacher.address)
