"""Students of every recurrent kind through the whole trainer: learnt, saved, read, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imitkd.cli.main import main
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.decoding import Beam
from seq2seq.translation import translate
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service.server import ServerThread
from tests.builders import RECURRENT
from tests.unit.teacher_service.support import tiny_config


def student(plain: dict[str, Any], shape: str, **changes: Any) -> dict[str, Any]:
    """Values of a run of a recurrent student."""
    model = plain["model"] | {"ffn": 32} | RECURRENT[shape]
    if model["kind"] == "stacked":
        del model["ffn"], model["heads"]
    return plain | {"model": model, "batch": {"sentences": 16}} | changes


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if r["kind"] == "step"]


@pytest.mark.parametrize("shape", RECURRENT)
def test_it_learns_and_its_directory_is_the_model(
    shape: str, tmp_path: Path, plain_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    optimiser = plain_config["optimiser"] | {"steps": 15, "learning_rate": 0.03}
    run = tmp_path / "run"
    train(make_config(student(plain_config, shape, optimiser=optimiser)), run)
    found = losses(run)
    assert np.mean(found[-3:]) < 0.95 * np.mean(found[:3]), found

    directory = load_model_directory(run / "student")
    again = load_model_directory(run / "student")
    sources = [e.source for e in read_split(plain_config["corpus"]["path"], "validation")]
    for mode in (None, Beam(3)):
        together = translate(directory.model, directory.vocabulary, sources, mode)
        alone = [translate(again.model, again.vocabulary, [x], mode)[0] for x in sources]
        assert together == alone
    arguments = [str(run / "student"), plain_config["corpus"]["path"], "--split", "validation"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments, "--json", str(tmp_path / "found.json")])
    assert not ended.value.code, capsys.readouterr().err
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["translations"] == translate(directory.model, directory.vocabulary, sources)
    assert said["parameters"] == directory.model.parameter_count()


def test_the_papers_student_imitates_and_resumes(
    tmp_path: Path, plain_config: dict[str, Any], tiny_teacher: Path
) -> None:
    """Stacks of SRU, ImitKD + Full; without its last checkpoint it goes on to the same end."""
    plain = student(plain_config, "stacked-sru", method="imitkd-full", checkpoint_every=3)
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=2048, deterministic=True)) as server:
        config = make_config(plain | {"teacher": {"address": server.address}})
        for run in (torn, whole):
            train(config, run)
        shutil.rmtree(torn / "checkpoints" / "step-000000008")
        train(config, torn, resume=True)
    assert len(losses(whole)) == 8
    assert losses(torn) == losses(whole)
    one, two = (load_model_directory(run / "student").model.state_dict() for run in (torn, whole))
    assert all(torch.equal(one[name], two[name]) for name in two)
