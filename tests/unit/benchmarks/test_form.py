"""The one form in which all benchmarks report."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks import form
from benchmarks.form import Figure, Result


def measured(
    monkeypatch: pytest.MonkeyPatch, result: Result, *arguments: str
) -> tuple[list[bool], list[str]]:
    """What `measure` was told, and the arguments given."""
    told: list[bool] = []

    def measure(quick: bool) -> Result:
        told.append(quick)
        return result

    monkeypatch.setattr(sys, "argv", ["somewhere/speed.py", *arguments])
    form.run("speed", measure)
    return told, list(arguments)


RESULT = Result(
    {"rate": Figure(1234.5678, "sentences/s", ">= 1000"), "share": Figure(0.25, "share")},
    {"runs": [1, 2]},
)


def test_the_json_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a folder" / "speed.json"
    told, arguments = measured(monkeypatch, RESULT, "--quick", "--json", str(file))
    assert told == [True]
    written = json.loads(file.read_text())
    assert list(written) == ["command", "machine", "date", "figures", "detail"]
    assert shlex.split(written["command"]) == ["python", "-m", "benchmarks.speed", *arguments]
    assert written["figures"] == {
        "rate": {"value": 1234.5678, "unit": "sentences/s", "goal": ">= 1000"},
        "share": {"value": 0.25, "unit": "share", "goal": None},
    }
    assert written["detail"] == {"runs": [1, 2]}
    when = datetime.datetime.fromisoformat(written["date"])
    assert abs(datetime.datetime.now(datetime.UTC) - when) < datetime.timedelta(minutes=5)


def test_the_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, RESULT, "--json", str(tmp_path / "speed.json"))
    machine = json.loads((tmp_path / "speed.json").read_text())["machine"]
    assert set(machine) == {"cpu", "cores", "system", "python", "torch", "gpu"}
    assert machine["cpu"]
    assert machine["cores"] == os.cpu_count()
    assert machine["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    told, _ = measured(monkeypatch, RESULT)
    assert told == [False]
    out = capsys.readouterr().out
    assert "benchmarks.speed" in out
    assert [word for word in ("rate", "1235", "sentences/s", ">= 1000") if word not in out] == []
    assert [word for word in ("share", "0.25") if word not in out] == []
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def measure(quick: bool, *, model: Path) -> Result:
        told.append((quick, model))
        return RESULT

    monkeypatch.setattr(sys, "argv", ["speed.py", "--model", "a/b"])
    form.run("speed", measure, {"--model": {"type": Path}})
    assert told == [(False, Path("a/b"))]


def test_a_ratio_is_taken_within_turns() -> None:
    """Turn by turn twice as long, on a machine that grows slower and slower."""
    assert form.paired_ratio([2.0, 4.0, 80.0], [1.0, 2.0, 40.0]) == 2.0
    with pytest.raises(ValueError, match="zip"):
        form.paired_ratio([1.0], [1.0, 2.0])
