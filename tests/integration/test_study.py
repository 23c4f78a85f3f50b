"""A whole study over a served teacher: every kind of method, resumed cell by cell."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
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


def study_of(files: Path, serve: Serving, *overrides: str, only: Sequence[str] = ()) -> Study:
    settings = load_study(files / "study.yaml", list(overrides))
    quiet = Console(quiet=True)
    return Study(settings, files / "out", files / "runs", only=only, console=quiet, serve=serve)


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

    # A run that was stopped goes on from its checkpoint.
    (cells / "vanilla/seed1/cell.json").unlink()
    (runs / "vanilla/seed1/summary.json").unlink()
    assert scores(study_of(files, serve).run()["rows"][1]) == scores(results["rows"][1])


FASTER = "train.optimiser.learning_rate=0.5"


@pytest.mark.parametrize("gone", [[], ["summary.json"]], ids=["trained", "begun"])
def test_a_run_of_other_settings_is_not_taken_for_the_studys(files: Path, gone: list[str]) -> None:
    serve = Serving(files / "teacher")
    study_of(files, serve).run()
    only = "students.small.variants=[vanilla]"
    vanilla = files / "out/cells/small/vanilla/seed1/cell.json"
    student = json.loads(vanilla.read_text())["details"]["revision"]
    vanilla.unlink()
    for name in gone:
        (files / "runs/small/vanilla/seed1" / name).unlink()
    with pytest.raises(UserError, match=r"other settings .*\(optimiser.learning_rate\); remove it"):
        study_of(files, serve, only, FASTER).run()
    assert not vanilla.exists()
    study_of(files, serve, only).run()
    assert json.loads(vanilla.read_text())["details"]["revision"] == student


def test_no_table_mixes_conditions(files: Path) -> None:
    """A finished cell of other settings is refused where it would be scored, and where kept."""
    serve = Serving(files / "teacher")
    study_of(files, serve).run()
    before = (files / "out/results.json").read_bytes()
    for act in (Study.run, Study.rescore):
        with pytest.raises(UserError, match=r"seed1 was made with .*\(optimiser.learning_rate\)"):
            act(study_of(files, serve, FASTER))
    assert (files / "out/results.json").read_bytes() == before
    # How a run is carried out makes no difference.
    study_of(files, serve, "train.learner_threads=2", "train.checkpoint_every=7").rescore()


def test_results_of_another_teacher_are_refused(files: Path) -> None:
    serve = Serving(files / "teacher")
    study_of(files, serve).run()
    other = save_brief_teacher(files / "other", seed=9)
    with pytest.raises(UserError, match=r"cells/teacher is of another teacher than .*/other"):
        study_of(files, serve, f"teacher={other}").rescore()
    facts_file = files / "out/cells/teacher/cell.json"
    facts = facts_file.read_text()
    try:
        changed = json.loads(facts)
        changed["details"]["revision"] = "sha256:0"
        facts_file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"seed1 was made with other settings .*\(teacher\)"):
            study_of(files, serve, "teacher=gone").rescore()
    finally:
        facts_file.write_text(facts)


def test_a_cell_is_looked_into_also_when_it_was_finished_before(files: Path) -> None:
    serve = Serving(files / "teacher")
    study_of(files, serve).run()
    cell = files / "out/cells/small/seqkd/seed1"
    curve = json.loads((cell / "curve.json").read_text())
    assert curve["metric"] == "bleu" and [p["step"] for p in curve["points"]] == [STEPS]
    assert {"bleu", "chrf", "loss"} <= curve["points"][0].keys()
    analysis = (cell / "analysis.json").read_text()
    found = json.loads(analysis)
    assert (found["split"], found["sentences"]) == ("test", 4)
    assert [point["share"] for point in found["teacher_finishes"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    facts = (cell / "cell.json").stat().st_mtime_ns
    (cell / "analysis.json").unlink()
    student = files / "runs/small/seqkd/seed1/student"
    aside = student.rename(student.with_name("aside"))
    served = serve.times
    study_of(files, serve).run()  # without its student nothing can be done, and nothing is served
    assert serve.times == served and not (cell / "analysis.json").exists()
    aside.rename(student)
    study_of(files, serve).run()
    assert (cell / "analysis.json").read_text() == analysis
    assert (cell / "cell.json").stat().st_mtime_ns == facts


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
    cells = files / "out/cells/small"
    for name in ("vanilla", "seqkd"):
        (cells / name / "seed1/cell.json").unlink()
    serve = Serving(files / "teacher")
    only = study_of(files, serve, only=["small/vanilla/*"])
    with held(files / "runs/claims/distilled"):
        found = only.run()
    # The results are of all that is finished, whatever was chosen to be run.
    assert found["unfinished"] == ["small/seqkd/seed1"]
    assert {"replay", "vanilla"} <= {row["method"] for row in found["rows"]}
    with pytest.raises(UserError, match=r"--cells 'large/\*' is no cell .* small/vanilla/seed1"):
        study_of(files, serve, only=["small/*", "large/*"])
    study_of(files, serve).run()


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
