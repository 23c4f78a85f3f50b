"""A teacher as a child process: what its parent is told when it does not come up."""

from __future__ import annotations

from pathlib import Path

import pytest

from imitkd.serving import serve_arguments, serving
from seq2seq.errors import UserError


def test_a_teacher_that_dies_while_loading_is_told_at_once(tmp_path: Path) -> None:
    """The port is bound before the model is read, so the address comes all the same."""
    log = tmp_path / "logs" / "teacher.log"
    with (
        pytest.raises(UserError, match=r"did not start: [^:]*none is no model directory .*log"),
        serving(serve_arguments(tmp_path / "none", threads=1), log),
    ):
        pytest.fail("there is nothing to serve")
    assert "is no model directory" in log.read_text()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*teacher\.log: .*; choose another"),
        serving(serve_arguments(tmp_path), tmp_path / "file" / "teacher.log"),
    ):
        pytest.fail("there is nowhere to log")


def test_arguments(tmp_path: Path) -> None:
    base = ["teacher", "serve", str(tmp_path), "--address", "127.0.0.1:0", "--end-with-stdin"]
    assert serve_arguments(tmp_path) == base
    assert serve_arguments(tmp_path, threads=2) == [*base, "--threads", "2"]
    assert serve_arguments(tmp_path, tmp_path)[:4] == ["teacher", "serve", *[str(tmp_path)] * 2]
