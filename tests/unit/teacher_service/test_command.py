"""The server's command line: which settings its arguments mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from teacher_service import command
from teacher_service.config import ServerConfig


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch):
    """What ``run`` is given for some arguments."""

    def parse(*arguments: str) -> ServerConfig:
        given: list[dict[str, Any]] = []
        monkeypatch.setattr(command, "run", lambda settings: given.append(settings) or 0)
        app = typer.Typer()
        app.command()(command.serve)
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return ServerConfig(**given[0])

    return parse


def test_one_directory(settings_of):
    found = settings_of("a")
    assert found.model_dirs == (Path("a"),) and found.target_prefix is None


def test_several_directories_are_an_ensemble(settings_of):
    found = settings_of("a", "b", "c", "--device", "cpu")
    assert found.model_dirs == (Path("a"), Path("b"), Path("c"))


def test_a_target_prefix(settings_of):
    assert settings_of("a", "--target-prefix", "fra_Latn").target_prefix == "fra_Latn"
