"""What a report is made of, read from run and study directories as it lies there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imitkd.analysing import ANALYSIS_FILE
from imitkd.study.cell_files import CURVE_FILE
from seq2seq.corpus import Example, read_split
from seq2seq.errors import UserError
from student_trainer.run_directory import RunDirectory

RESULTS_FILE = "results.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Validations of a training, in order.

    Attributes:
        metric: what it was judged by, ``bleu`` or a kind of ``rouge``.
        points: ``step`` and scores.
    """

    metric: str
    points: list[Record]


@dataclass(frozen=True)
class Run:
    """A training run, finished or not.

    Attributes:
        config: resolved, and as it is written.
        summary: empty until the run is finished.
        steps, validations: of ``metrics.jsonl``.
        analysis: of `imitkd analyse`, None without one.
        evaluations: files of `imitkd evaluate --json` in ``evaluation/``, by name.
    """

    path: Path
    config: Record
    config_text: str
    summary: Record
    steps: list[Record]
    validations: list[Record]
    analysis: Record | None
    evaluations: dict[str, Record]

    @property
    def name(self) -> str:
        """Of its configuration."""
        return str(self.config["name"])

    @property
    def curve(self) -> Curve | None:
        """Its validations, None before the first."""
        metric = (self.config.get("validation") or {}).get("metric", "bleu")
        return Curve(metric, self.validations) if self.validations else None


@dataclass(frozen=True)
class Cell:
    """A finished cell of a study: its files as they lie there.

    Attributes:
        student, seed: None for the teacher.
        details: what ``cell.json`` says for readers.
        texts: greedy hypotheses by test split.
        curve, analysis: None without the file.
    """

    method: str
    student: str | None
    seed: int | None
    details: Record
    texts: dict[str, list[str]]
    curve: Curve | None
    analysis: Record | None

    @property
    def name(self) -> str:
        """As the study names it, by student, method and seed."""
        return f"{self.student}/{self.method}/seed{self.seed}" if self.student else self.method

    @property
    def label(self) -> str:
        """A method with the student it trained; the teacher by itself."""
        return f"{self.method} · {self.student}" if self.student else self.method


@dataclass(frozen=True)
class Study:
    """A study's results with the cells behind them.

    Attributes:
        results: ``rows`` at least.
        cells: those that have rows, in the order of the rows; empty where only results are at hand.
        examples: by test split, sources and references where the corpus is at hand.
    """

    path: Path
    results: Record
    cells: list[Cell]
    examples: dict[str, list[Example]]

    @property
    def name(self) -> str:
        """Of its results, or of its directory."""
        return str(self.results.get("study", self.path.name))

    @property
    def rows(self) -> list[Record]:
        """One for each method, student, seed and test split."""
        rows: list[Record] = self.results["rows"]
        return rows

    @property
    def tests(self) -> list[str]:
        """Test splits in the order of the rows."""
        return list(dict.fromkeys(str(row["test"]) for row in self.rows))


def read_any(path: Path) -> Run | Study:
    """A run or a study directory.

    Raises:
        UserError: neither, or a file of it cannot be understood.
    """
    if (path / RESULTS_FILE).is_file():
        return read_study(path)
    if (path / "config.yaml").is_file():
        return read_run(path)
    raise UserError(
        f"{path} is neither a run (config.yaml) nor a study's results ({RESULTS_FILE}); name a "
        "directory that `imitkd train` or `imitkd study` wrote"
    )


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        UserError: a file of it cannot be understood.
    """
    directory = RunDirectory(path)
    text = directory.config_file.read_text()
    try:
        config = yaml.safe_load(text)
        config["name"], config["method"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise UserError(f"{directory.config_file} is no resolved configuration") from error
    records = list(directory.metrics.read())
    return Run(
        path=path,
        config=config,
        config_text=text,
        summary=_json(directory.summary_file) or {},
        steps=[r for r in records if r["kind"] == "step"],
        validations=[r for r in records if r["kind"] == "validation"],
        analysis=_json(path / ANALYSIS_FILE),
        evaluations={
            file.stem: _json(file) or {} for file in sorted((path / "evaluation").glob("*.json"))
        },
    )


def read_study(path: Path) -> Study:
    """Read a study's directory of results.

    Raises:
        UserError: a file of it cannot be understood.
    """
    results = _json(path / RESULTS_FILE)
    if not results or not isinstance(results.get("rows"), list) or not results["rows"]:
        raise UserError(f"{path / RESULTS_FILE} has no rows; finish a cell of the study first")
    needed = {"method", "student", "seed", "test", "bleu_greedy"}
    for number, row in enumerate(results["rows"], 1):
        if missing := sorted(needed - row.keys()):
            raise UserError(f"{path / RESULTS_FILE}: row {number} has no {', '.join(missing)}")
    return Study(path, results, _cells(path, results["rows"]), _examples(results))


def _cells(path: Path, rows: list[Record]) -> list[Cell]:
    """Of the cells that lie there those with rows: a study may have dropped others since."""
    found = {}
    for file in path.glob("cells/**/cell.json"):
        facts = _json(file) or {}
        found[_key(facts)] = (file.parent, facts)
    keys = dict.fromkeys(map(_key, rows))
    return [_cell(*found[key]) for key in keys if key in found]


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("student", "method", "seed"))


def _cell(folder: Path, facts: Record) -> Cell:
    texts = {
        file.name.removesuffix(".greedy.txt"): file.read_text("utf-8")
        .removesuffix("\n")
        .split("\n")
        for file in sorted(folder.glob("*.greedy.txt"))
    }
    return Cell(
        facts["method"],
        facts.get("student"),
        facts.get("seed"),
        facts.get("details") or {},
        texts,
        _curve(folder / CURVE_FILE),
        _json(folder / ANALYSIS_FILE),
    )


def _curve(path: Path) -> Curve | None:
    found = _json(path)
    if not found:
        return None
    try:
        return Curve(found["metric"], found["points"])
    except KeyError as error:
        raise UserError(f"{path} has no {error}; remove it, or run its cell again") from error


def _examples(results: Record) -> dict[str, list[Example]]:
    corpus = results.get("corpus")
    where = corpus.get("path") if isinstance(corpus, dict) else corpus
    found = {}
    for test in dict.fromkeys(str(row["test"]) for row in results["rows"]):
        if where and (Path(where) / f"{test}.jsonl").is_file():
            found[test] = read_split(Path(where), test)
    return found


def _json(path: Path) -> Record | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); write it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no object; write it again")
    return found
