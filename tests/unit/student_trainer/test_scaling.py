"""A request for workers reaches the process it was meant for, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from imitkd.cli.main import main
from seq2seq.errors import UserError
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import held
from student_trainer.scaling import request_workers, requested_workers


@pytest.fixture
def run(tmp_path: Path, plain_config: dict[str, Any]) -> RunDirectory:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain_config | {"runtime": "ray"}))
    return RunDirectory(tmp_path)


def test_who_holds_the_run_is_asked_and_the_last_word_counts(run):
    with held(run.path) as fence:
        mine = RunDirectory(run.path, fence)
        assert requested_workers(mine) is None
        request_workers(run, 5)
        assert requested_workers(mine) == 5
        with pytest.raises(SystemExit) as ended:
            main(["scale", str(run.path), "--workers", "2"])
        assert ended.value.code == 0 and requested_workers(mine) == 2


def test_who_resumes_the_run_goes_by_its_configuration(run):
    with held(run.path):
        request_workers(run, 5)
    with held(run.path) as fence:
        assert requested_workers(RunDirectory(run.path, fence)) is None


def test_what_nobody_runs_cannot_be_asked(run, tmp_path):
    with pytest.raises(UserError, match=r"no process runs .* --resume and workers=3"):
        request_workers(run, 3)
    with held(run.path):
        pass
    with pytest.raises(UserError, match="no process runs"):
        request_workers(run, 3)
    with pytest.raises(UserError, match="holds no run"):
        request_workers(RunDirectory(tmp_path / "nothing"), 3)


def test_one_process_has_no_workers(tmp_path, plain_config):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain_config))
    with held(tmp_path), pytest.raises(UserError, match="runtime inline"):
        request_workers(RunDirectory(tmp_path), 3)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 1}', '{"token": "x", "workers": 2}'])
def test_a_damaged_request_is_named(run, text):
    (run.path / "scale.json").write_text(text)
    with held(run.path) as fence, pytest.raises(UserError, match=r"scale.json cannot be read"):
        requested_workers(RunDirectory(run.path, fence))
