"""From text files to a distilled student through the public commands, in about a minute.

Everything is real: a trained teacher, its server as a process of its own, a local Ray with rollout
actors and a learner process, gRPC between them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imitkd.serving import serve_arguments, serving
from seq2seq.checkpoint import load_model_directory
from tests.small_corpus import write_files

VALIDATION_LOSS_FACTOR = 3.0

_MODEL = {"kind": "transformer", "d_model": 64, "heads": 4, "ffn": 128, "dropout": 0.05}
_TEACHER = {
    "name": "tiny-teacher",
    "method": "vanilla",
    "runtime": "inline",
    "vocabulary": {"size": 90},
    "model": _MODEL | {"encoder_layers": 2, "decoder_layers": 2},
    "batch": {"sentences": 64},
    "optimiser": {"steps": 180, "learning_rate": 0.005, "warmup": 40, "average": 0.9},
    "validation": {"every": 90, "sentences": 60},
}
_STUDENT = {
    "name": "tiny-student",
    "method": "imitkd-full",
    "runtime": "ray",
    "workers": 2,
    "model": _MODEL | {"d_model": 48, "encoder_layers": 1, "decoder_layers": 1},
    "batch": {"sentences": 48, "shards": 2},
    "loss": {"top_k": 8},
    "mixing": {"schedule": "exponential", "base": 10},
    "rollout": {"pool": 4, "lag": 4, "limit": {"ratio": 1.5, "offset": 4, "cap": 40}},
    "optimiser": {"steps": 240, "learning_rate": 0.006, "warmup": 40},
    "validation": {"every": 80, "sentences": 60},
}


def imitkd(directory: Path, *arguments: str, text: str | None = None) -> str:
    """Run a command as a user would; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "imitkd", *arguments],
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a trained teacher."""
    directory = tmp_path_factory.mktemp("e2e")
    english, german = write_files(directory, 1600)
    imitkd(
        directory, "data", "prepare", "phrases", "--source-file", str(english),
        "--target-file", str(german), "--validation", "100", "--test", "100",
        "--source-language", "en", "--target-language", "de",
    )  # fmt: skip
    config = _TEACHER | {"corpus": {"path": "data/phrases"}}
    (directory / "teacher.yaml").write_text(yaml.safe_dump(config))
    imitkd(directory, "teacher", "train", "teacher.yaml", "--output", "teacher-run")
    return directory


def test_student_learns_from_the_served_teacher(workspace: Path) -> None:
    teacher = workspace / "teacher-run" / "teacher"
    card = (teacher / "README.md").read_text()
    assert "| test | greedy |" in card and "nrefs:1" in card
    with serving(serve_arguments(teacher, threads=1), workspace / "teacher.log") as address:
        config = _STUDENT | {
            "corpus": {"path": "data/phrases"},
            "vocabulary": {"from": str(teacher)},
            "teacher": {"address": address},
        }
        (workspace / "student.yaml").write_text(yaml.safe_dump(config))
        imitkd(workspace, "train", "student.yaml", "--output", "student-run")
    run = workspace / "student-run"
    summary = json.loads((run / "summary.json").read_text())
    before = evaluated(workspace, run / "initial")
    after = evaluated(workspace, run / "student")
    assert after["loss"] * VALIDATION_LOSS_FACTOR < before["loss"]
    assert after["bleu"] > before["bleu"] + 10
    larger = load_model_directory(teacher, device="cpu").model.parameter_count()
    assert after["parameters"] < larger / 2
    steps = _STUDENT["optimiser"]["steps"]  # type: ignore[index]
    assert summary["batches"] == steps
    # 30 batches an epoch, the last of 8 rows: 240 steps see each of the 1,400 pairs 8 times.
    assert summary["sentences_scored"] == 8 * 1400
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    written = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in written] == list(range(1, steps + 1))
    assert [r["version"] for r in written] == [max(0, 4 * (i // 4) - 4) for i in range(steps)]
    assert written[-1]["student_share"] > 0.7 > 0.3 > written[0]["student_share"]


def evaluated(workspace: Path, model: Path) -> dict[str, float]:
    """Scores of a model directory on the held-out test split."""
    file = workspace / "evaluation.json"
    imitkd(workspace, "evaluate", str(model), "data/phrases", "--json", str(file))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def test_translate_keeps_the_order_of_lines(workspace: Path) -> None:
    teacher = str(workspace / "teacher-run" / "teacher")
    lines = [
        "open the door outside to check the lamp",
        "",
        "stop the pump at night to move the fan",
    ]
    both = imitkd(workspace, "translate", teacher, text="\n".join(lines) + "\n").split("\n")
    assert len(both) == 4 and both[3] == ""
    alone = imitkd(workspace, "translate", teacher, "--beam", "1", text=lines[2] + "\n")
    assert both[2] == alone.rstrip("\n") and both[0] != both[2]
