"""What a report is made of, read from run and study directories as it lies there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imitkd.analysing import ANALYSIS_FILE
from seq2seq.corpus import Example, read_split
from seq2seq.errors import UserError
from student_trainer.run_directory import RunDirectory

RESULTS_FILE = "results.json"

Record = dict[str, Any]


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


@dataclass(frozen=True)
class Study:
    """A study's results with the texts behind them.

    Attributes:
        results: ``rows`` at least.
        texts: by test split and label of a cell, its greedy hypotheses; empty where only results
            are at hand.
        examples: by test split, sources and references where the corpus is at hand.
    """

    path: Path
    results: Record
    texts: dict[str, dict[str, list[str]]]
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
    study = Study(path, results, _texts(path), {})
    return Study(path, results, study.texts, _examples(study))


def _texts(path: Path) -> dict[str, dict[str, list[str]]]:
    """Greedy texts of the first seed of each cell."""
    cells = []
    for file in path.glob("cells/**/cell.json"):
        facts = _json(file) or {}
        cells.append((facts.get("student") or "", facts.get("seed") or 0, file.parent, facts))
    found: dict[str, dict[str, list[str]]] = {}
    for _, _, folder, facts in sorted(cells, key=lambda cell: cell[:3]):
        for file in sorted(folder.glob("*.greedy.txt")):
            texts = file.read_text("utf-8").removesuffix("\n").split("\n")
            split = found.setdefault(file.name.removesuffix(".greedy.txt"), {})
            split.setdefault(label_of(facts), texts)
    return found


def _examples(study: Study) -> dict[str, list[Example]]:
    corpus = study.results.get("corpus")
    where = corpus.get("path") if isinstance(corpus, dict) else corpus
    found = {}
    for test in study.tests:
        if where and (Path(where) / f"{test}.jsonl").is_file():
            found[test] = read_split(Path(where), test)
    return found


def label_of(row: Record) -> str:
    """A method with the student it trained; the teacher by itself."""
    return f"{row['method']} · {row['student']}" if row.get("student") else str(row["method"])


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
