"""Entry point of `imitkd`: puts the commands together, turns faults into one line.

A command lives in a module of this package that exposes `app`, a `typer.Typer`. With a name
(`typer.Typer(name="data")`) it becomes a group, `imitkd data prepare`; without one its commands
stand at the top, `imitkd train`. Such a module must be cheap to import (the standard library and
typer): torch, Ray, gRPC and the like are imported inside the functions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

import imitkd
from seq2seq.errors import UserError

COMMAND_MODULES = (
    "imitkd.cli.data",
    "imitkd.cli.teacher",
    "imitkd.cli.doctor",
    "imitkd.cli.train",
    "imitkd.cli.runs",
    "imitkd.cli.evaluate",
    "imitkd.cli.analyse",
    "imitkd.cli.report",
    "imitkd.cli.export",
    "imitkd.cli.translate",
    "imitkd.cli.demo",
    "imitkd.cli.study",
)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="imitkd",
    help="Compress a sequence-to-sequence model into a small fast one by imitation learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in COMMAND_MODULES:
    app.add_typer(import_module(_module).app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imitkd {imitkd.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _told(error: Exception) -> str | None:
    """What `error` tells the user, on one line; None where it is a defect of ours."""
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check who may read and write it"
    # The teacher client has errors of its own; if its module was never loaded this is not one.
    errors = sys.modules.get("teacher_service.errors")
    if isinstance(error, UserError) or (errors and isinstance(error, errors.TeacherError)):
        return " ".join(str(error).split())
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (default: the process's own). Always ends in SystemExit.

    Exit status: 0 done, 2 a wrong command line or a fault the user can mend, which is printed as
    one line on stderr, 130 interrupted (Ctrl-C).
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="imitkd")
    except KeyboardInterrupt:  # before a command had begun
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        line = _told(error)
        if line is None:
            raise
        print(f"imitkd: {line}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
