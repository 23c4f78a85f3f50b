"""A whole study over a served teacher: every kind of method, resumed cell by cell."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from imitkd.corpora.store import CorpusInfo, write_corpus
from imitkd.study.plan import load_study
from imitkd.study.runner import Study
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from student_trainer.run_lock import held
from teacher_service.server import ServerThread
from tests.builders import save_brief_teacher
from tests.conftest import SMALL_MODEL
from tests.unit.teacher_service.support import tiny_config

VARIANTS: list[Any] = [
    "vanilla",
    "seqinter",
    "seqkd",
    {"method": "gkd", "name": "jsd", "overrides": {"loss.divergence": "jsd"}},
    {"method": "gkd", "name": "reverse", "overrides": {"loss.divergence": "reverse-kl"}},
    {"method": "imitkd-full", "name": "hidden", "overrides": {"loss.payload": "hidden"}},
    "replay",
]
STEPS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """A study file, its corpus and its teacher."""
    path = tmp_path_factory.mktemp("study")
    teacher = save_brief_teacher(path / "teacher")
    train, held_out = read_split(tiny_corpus, "train")[:16], read_split(tiny_corpus, "validation")
    info = CorpusInfo("tiny", "xx", "yy", "none", "a test", (), "sha256:tiny")
    splits = {"train": train, "validation": held_out, "test": held_out[:4]}
    write_corpus(path / "corpus", info, splits)
    study = {
        "name": "tiny",
        "corpus": str(path / "corpus"),
        "teacher": str(teacher),
        "train": {
            "runtime": "inline",
            "vocabulary": {"from": str(teacher)},
            "batch": {"sentences": 8},
            "optimiser": {"steps": STEPS, "warmup": 1},
            "mixing": {"schedule": "constant", "value": 0.3},
            "loss": {"top_k": 4},
            "rollout": {"limit": {"cap": 12}},
            "validation": {"every": STEPS, "sentences": 4},
        },
        "students": {"small": {"model": SMALL_MODEL}},
        "variants": VARIANTS,
        "beam": 2,
        "resamples": 20,
    }
    (path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return path


class Serving:
    """Serves the tiny teacher, and counts how often."""

    def __init__(self, teacher: Path) -> None:
        self._teacher, self.times = teacher, 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[str]:
        self.times += 1
        with ServerThread(tiny_config(self._teacher)) as server:
            yield server.address


def study_of(files: Path, serve: Serving, *overrides: str) -> Study:
    settings = load_study(files / "study.yaml", list(overrides))
    quiet = Console(quiet=True)
    return Study(settings, files / "out", files / "runs", console=quiet, serve=serve)


def test_a_study_from_teacher_to_table_and_again_cell_by_cell(files: Path) -> None:
    serve = Serving(files / "teacher")
    results = study_of(files, serve).run()
    names = [v if isinstance(v, str) else v["name"] for v in VARIANTS]
    assert {row["method"] for row in results["rows"]} == {"teacher", *names}
    assert results["unfinished"] == [] and serve.times == 1
    table = (files / "out/table.md").read_text()
    cells = {cell.strip() for line in table.splitlines() for cell in line.split("|")}
    assert {"teacher", *names} <= cells
    written = (files / "runs/distilled/train.jsonl").read_text().splitlines()
    assert 0 < len(written) <= 16
    assert all(1 <= len(json.loads(line)["candidates"]) <= 2 for line in written)
    facts = json.loads((files / "out/cells/small/jsd/seed1/cell.json").read_text())
    assert facts["details"]["batches"] == STEPS and facts["train_seconds"] > 0
    assert facts["details"]["config"]["loss"]["divergence"] == "jsd"

    # All is there: nothing is served, trained or evaluated again.
    assert study_of(files, serve).run() == results and serve.times == 1

    # A cell that was trained and not evaluated is evaluated; one that is gone is trained.
    cells, runs = files / "out/cells/small", files / "runs/small"
    before = (cells / "vanilla/seed1/test.greedy.txt").read_text()
    summary = (runs / "vanilla/seed1/summary.json").stat().st_mtime_ns
    (cells / "vanilla/seed1/cell.json").unlink()
    shutil.rmtree(cells / "seqkd")
    shutil.rmtree(runs / "seqkd")
    again = study_of(files, serve).run()
    assert serve.times == 2
    assert (runs / "vanilla/seed1/summary.json").stat().st_mtime_ns == summary
    assert (cells / "vanilla/seed1/test.greedy.txt").read_text() == before
    assert [scores(row) for row in again["rows"]] == [scores(row) for row in results["rows"]]

    # A run that was stopped goes on from its checkpoint, unless the study changed meanwhile.
    (cells / "vanilla/seed1/cell.json").unlink()
    (runs / "vanilla/seed1/summary.json").unlink()
    with pytest.raises(UserError, match=r"vanilla/seed1 holds a run of other settings"):
        study_of(files, serve, "train.optimiser.learning_rate=0.5").run()
    assert scores(study_of(files, serve).run()["rows"][1]) == scores(results["rows"][1])


def test_a_cell_that_another_process_has_is_left_to_it(files: Path) -> None:
    serve = Serving(files / "teacher")
    whole = study_of(files, serve).run()
    cells, runs = files / "out/cells/small", files / "runs/small"
    for name in ("vanilla", "seqinter", "seqkd"):
        shutil.rmtree(cells / name)
        shutil.rmtree(runs / name)
    with held(files / "runs/claims/small/vanilla/seed1"):
        found = study_of(files, serve).run()
    # What goes on from it is left to the other process, too.
    assert found["unfinished"] == ["small/vanilla/seed1", "small/seqinter/seed1"]
    again = study_of(files, serve).run()
    assert [scores(row) for row in again["rows"]] == [scores(row) for row in whole["rows"]]


def test_nobody_waits_for_text_that_its_cells_do_not_learn_from(files: Path) -> None:
    """Another process has the teacher write; this one has vanilla to train, and trains it."""
    study_of(files, Serving(files / "teacher")).run()
    (files / "out/cells/small/vanilla/seed1/cell.json").unlink()
    only = study_of(files, Serving(files / "teacher"), "students.small.variants=[vanilla]")
    with held(files / "runs/claims/distilled"):
        assert only.run()["unfinished"] == []


def scores(row: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine."""
    return {k: v for k, v in row.items() if not k.endswith(("_s", "_seconds"))}


def test_the_command_rescores(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from imitkd.cli.main import main

    (files / "out/results.json").unlink()
    arguments = ["--output", str(files / "out"), "--runs", str(files / "runs"), "--rescore"]
    with pytest.raises(SystemExit) as ended:
        main(["study", str(files / "study.yaml"), *arguments])
    assert ended.value.code in (0, None)
    assert "results: " in capfd.readouterr().out and (files / "out/results.json").is_file()
