"""A run killed without warning goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from seq2seq.checkpoint import load_model_directory, save_model_directory
from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import HOLDER_FILE, held
from student_trainer.status import read_status
from student_trainer.training import train
from teacher_service.local_model import LocalModel, load_local_model
from teacher_service.server import ServerThread
from tests.builders import tiny_model
from tests.unit.teacher_service.support import tiny_config

ROOT = Path(__file__).resolve().parents[2]
STEPS, CHECKPOINT, KILLED_AFTER = 12, 4, 10
TIMES = ("generate_s", "score_s", "teacher_s", "learn_s", "wall_s", "idle_s", "worker_s", "seconds")
Config = dict[str, Any]


class Gate:
    """Stops the teacher at the n-th batch it is given, and says when it is there."""

    def __init__(self) -> None:
        self._left = -1
        self.reached, self._open = threading.Event(), threading.Event()

    def close_after(self, batches: int) -> None:
        """Let so many batches pass."""
        self._left = batches

    def open(self) -> None:
        """Let all pass."""
        self._left = -1
        self._open.set()

    def load(self, config: Any) -> LocalModel:
        """The model of ``config`` behind this gate."""
        model = load_local_model(config.model_dir, "cpu", "fp32", 1)
        score = model.score

        def gated(*work: Any) -> Any:
            if self._left == 0:
                self.reached.set()
                assert self._open.wait(60)
            self._left -= self._left > 0
            return score(*work)

        model.score = gated  # type: ignore[method-assign]
        return model


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def address(tiny_teacher: Path, gate: Gate) -> Iterator[str]:
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=4096), gate.load) as server:
        yield server.address


@pytest.fixture(scope="module")
def config(tiny_corpus: Path, tiny_teacher: Path, address: str) -> Config:
    """Everything that a resumed run must find again: old versions, noise, moments, average."""
    return {
        "name": "tiny",
        "method": "imitkd-full",
        "runtime": "inline",
        "seed": 3,
        "deterministic": True,
        "checkpoint_every": CHECKPOINT,
        "corpus": {"path": str(tiny_corpus), "source_candidates": 4},
        "vocabulary": {"from": str(tiny_teacher)},
        "model": {
            "kind": "transformer",
            "d_model": 16,
            "heads": 2,
            "ffn": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "dropout": 0.1,
            "max_source_length": 128,
            "max_target_length": 128,
        },
        "loss": {"top_k": 8},
        "mixing": {"schedule": "exponential", "base": 20},
        "batch": {"sentences": 8, "shards": 2},
        "optimiser": {"steps": STEPS, "learning_rate": 0.01, "warmup": 2, "average": 0.9},
        "rollout": {
            "decoding": "sample",
            "pool": 3,
            "lag": 2,
            "limit": {"ratio": 1.0, "offset": 4, "cap": 32},
        },
        "teacher": {"address": address, "timeout_s": 60.0},
        "validation": {"every": 5, "sentences": 4},
    }


@pytest.fixture(scope="module")
def undisturbed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(make_config(config), run)
    return run


@pytest.fixture(scope="module")
def killed(
    config: Config, undisturbed: Path, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run killed while the first shard of its eleventh batch is with the teacher."""
    directory = tmp_path_factory.mktemp("killed")
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    gate.close_after(2 * KILLED_AFTER)
    process = subprocess.Popen(
        [sys.executable, "-m", "student_trainer", "config.yaml", "--output", "run"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert gate.reached.wait(240), f"the run ended by itself: {process.poll()}"
    finally:
        process.kill()
        process.wait()
        gate.open()
    return directory / "run"


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    """A copy of the killed run; the last line of its metrics is torn, as a crash may leave it."""
    copy = tmp_path / "run"
    shutil.copytree(killed, copy)
    with open(copy / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "st')
    return copy


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Metrics without the times."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in TIMES} for r in lines if r["kind"] == kind]


def content(run: Path) -> dict[Path, bytes]:
    """All files but the one that says who held the run last."""
    files = (p for p in run.rglob("*") if p.is_file() and p.name != HOLDER_FILE)
    return {p: p.read_bytes() for p in files}


def test_what_a_killed_run_leaves(killed: Path) -> None:
    names = sorted(p.name for p in (killed / "checkpoints").iterdir())
    assert names == [f"step-{CHECKPOINT:09d}", f"step-{2 * CHECKPOINT:09d}"]
    assert [r["step"] for r in records(killed, "step")] == list(range(1, KILLED_AFTER + 1))
    assert not (killed / "summary.json").exists()
    assert load_model_directory(killed / "student").name == "tiny"


def test_a_resumed_run_ends_as_an_undisturbed_one(
    config: Config, undisturbed: Path, run: Path
) -> None:
    result = train(make_config(config), run, resume=True)
    assert result.steps == STEPS
    steps = records(run, "step")
    assert [r["step"] for r in steps] == list(range(1, STEPS + 1))
    assert steps == records(undisturbed, "step")
    assert len({r["loss"] for r in steps}) == STEPS
    assert {r["version"] for r in steps} == {0, 1, 4, 7}
    assert records(run, "validation") == records(undisturbed, "validation")
    assert [r["step"] for r in records(run, "validation")] == [5, 10, 12]
    weights = "student/model.safetensors"
    assert (run / weights).read_bytes() == (undisturbed / weights).read_bytes()
    last = f"checkpoints/step-{STEPS:09d}/tensors.safetensors"
    mine, theirs = load_file(run / last), load_file(undisturbed / last)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    account = check_ledger(RunDirectory(run))
    assert account.holds, account.verdict()
    assert (account.batches, account.checkpointed) == (STEPS, STEPS)
    assert (account.resumes, account.rolled_back) == (1, KILLED_AFTER - 2 * CHECKPOINT)
    assert account.sentences == sum(r["sentences"] for r in steps)
    for key in ("sentences", "sentences_scored", "positions_scored", "best_step", "batches"):
        summaries = [json.loads((x / "summary.json").read_text()) for x in (run, undisturbed)]
        assert summaries[0][key] == summaries[1][key]


def test_resuming_a_finished_run_adds_nothing(
    config: Config, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    result = train(make_config(config), run, resume=True)
    assert result.steps == STEPS
    assert (run / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    summaries = [json.loads((x / "summary.json").read_text()) for x in (run, undisturbed)]
    assert summaries[0]["validation_bleu"] == summaries[1]["validation_bleu"]
    assert summaries[0]["batches"] == STEPS


def test_another_teacher_is_refused_and_the_run_left_as_it_was(
    config: Config, run: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    vocabulary = load_model_directory(tiny_teacher).vocabulary
    limits = {"max_source_length": 128, "max_target_length": 128}
    other = tiny_model(8, vocab_size=vocabulary.size, **limits)
    save_model_directory(tmp_path / "other", other, vocabulary, name="other", card="A test's.\n")
    before = content(run)
    with ServerThread(tiny_config(tmp_path / "other")) as server:
        changed = config | {"teacher": {"address": server.address}}
        with pytest.raises(UserError, match=r"began with teacher sha256:.* or begin a new run$"):
            train(make_config(changed), run, resume=True)
        assert content(run) == before
        # Told to, it goes on with the new one, and the ledger says from where.
        named = changed["teacher"] | {"revision": load_model_directory(tmp_path / "other").revision}
        train(make_config(config | {"teacher": named}), run, resume=True)
    account = check_ledger(RunDirectory(run))
    assert account.holds, account.verdict()
    teachers = [r["teacher"] for r in RunDirectory(run).ledger.read() if r["kind"] == "begin"]
    assert len(teachers) == 2 and teachers[1] == named["revision"] != teachers[0]


def test_the_same_teacher_may_have_moved(
    config: Config, undisturbed: Path, run: Path, tiny_teacher: Path
) -> None:
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=4096)) as server:
        changed = config | {"teacher": {"address": server.address}}
        train(make_config(changed), run, resume=True)
        assert server.address in (run / "config.yaml").read_text()
    assert records(run, "step") == records(undisturbed, "step")


def test_how_a_run_stands(undisturbed: Path, run: Path) -> None:
    ended, killed = (read_status(RunDirectory(x)) for x in (undisturbed, run))
    assert (ended.state, ended.step, ended.steps) == ("ended", STEPS, STEPS)
    assert (killed.state, killed.step, killed.checkpointed) == (
        "stale",
        KILLED_AFTER,
        2 * CHECKPOINT,
    )
    with held(run):
        alive = read_status(RunDirectory(run))
    assert alive.state == "alive" and alive.eta_s is not None and alive.eta_s > 0
    losses = [r["loss"] for r in records(undisturbed, "step")]
    assert ended.losses == losses[-5:] and killed.losses == losses[KILLED_AFTER - 5 : KILLED_AFTER]
    assert ended.validation is not None and ended.validation["step"] == STEPS
    assert ended.advice is not None and "runtime ray overlaps them" in ended.advice


def test_a_run_in_use_is_left_alone(config: Config, run: Path) -> None:
    before = content(run)
    with held(run), pytest.raises(UserError, match=r"is being run by process \d+ on .*; end that"):
        train(make_config(config), run, resume=True)
    assert content(run) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": {"sentences": 6, "shards": 2}}, "the batches .* are others"),
        ({"batch": {"sentences": 8, "shards": 4}}, "began with batch.shards=2, "),
        ({"seed": 4}, "began with seed=3, "),
        ({"corpus_sentences": 50}, "the batches .* are others"),
        ({"optimiser_steps": 20}, r"laid out for 12 steps and mixing.schedule=exponential would"),
    ],
)
def test_what_would_learn_sentences_twice_or_never_is_refused(
    config: Config, run: Path, changes: dict[str, Any], message: str
) -> None:
    changed = dict(config)
    for key, value in changes.items():
        section, _, name = key.partition("_")
        changed[section] = changed[section] | {name: value} if name else value
    before = content(run)
    with pytest.raises(UserError, match=message):
        train(make_config(changed), run, resume=True)
    assert content(run) == before


def test_a_finished_run_is_extended_as_if_it_had_been_longer(
    config: Config, tmp_path: Path
) -> None:
    changed = config | {
        "mixing": {"schedule": "constant", "value": 0.3},
        "validation": {"every": 4, "sentences": 4},
    }
    longer = changed | {"optimiser": config["optimiser"] | {"steps": STEPS + 8}}
    train(make_config(longer), tmp_path / "whole")
    train(make_config(changed), tmp_path / "run")
    first = json.loads((tmp_path / "run/summary.json").read_text())
    train(make_config(longer), tmp_path / "run", resume=True)
    for kind in ("step", "validation"):
        assert records(tmp_path / "run", kind) == records(tmp_path / "whole", kind)
    last = f"checkpoints/step-{STEPS + 8:09d}/tensors.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    second = json.loads((tmp_path / "run/summary.json").read_text())
    assert second["train_seconds"] > first["train_seconds"] > first["validation_seconds"] > 0
    assert check_ledger(RunDirectory(tmp_path / "run")).holds
