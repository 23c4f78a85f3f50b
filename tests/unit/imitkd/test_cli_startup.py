"""The command line starts fast and says what is wrong in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import imitkd.__main__
from imitkd.cli import main as cli
from seq2seq.errors import UserError

HEAVY = ("torch", "numpy", "ray", "grpc", "sentencepiece", "pydantic", "sacrebleu", "tensorboard")


COMMANDS = (
    "data prepare", "data list", "teacher train", "teacher serve", "teacher info", "teacher score",
    "teacher generate", "train", "evaluate", "export", "translate", "demo", "doctor",
    "data distil",
)  # fmt: skip


def test_help_loads_nothing_heavy() -> None:
    """Neither that of `imitkd` nor that of any command, all in one process."""
    asked = [[], *(command.split() for command in COMMANDS)]
    program = (
        "import sys\n"
        "from imitkd.cli.main import main\n"
        f"for command in {asked!r}:\n"
        "    try:\n        main([*command, '--help'])\n"
        "    except SystemExit as done:\n        assert not done.code, command\n"
        f"    print('heavy:', command, sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    # Typer takes Pydantic itself when it comes to the options of a command.
    light = ["[]", "['pydantic']"]
    assert told[0] == "heavy: [] []"
    assert [t for t, c in zip(told, asked, strict=True) if t.split(f"{c} ")[1] not in light] == []


def test_help_takes_less_than_half_a_second() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "imitkd", "--help"], capture_output=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        seconds.append(user + after.children_system - before.children_system)
    # Seconds of work, the best of some: other work on the machine is not what is measured.
    assert min(seconds) < 0.5


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"imitkd {imitkd.__version__}\n"


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["frobnicate"])
    assert caught.value.code == 2
    assert "No such command 'frobnicate'" in capsys.readouterr().err


def _raise(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", failing)


def test_user_errors_become_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raise(monkeypatch, UserError("'x' is\nwrong; do y"))
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == cli.EXIT_USER_ERROR == 2
    assert capsys.readouterr().err == "imitkd: 'x' is wrong; do y\n"


def test_files_of_others_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raise(monkeypatch, PermissionError(13, "Permission denied", "model/config.json"))
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "imitkd: model/config.json: Permission denied; check who may read and write it\n"
    )


def test_an_interruption_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    for main in (cli.main, imitkd.__main__.main):
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == cli.EXIT_INTERRUPTED == 130


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _raise(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main([])
