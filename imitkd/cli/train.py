"""`imitkd train`: train a student."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


class Runtime(StrEnum):
    """Where workers and learner run."""

    ray = "ray"
    inline = "inline"


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="For instance optimiser.steps=100."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="ray: actors; inline: one process.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
) -> None:
    """Train a student; the run directory ends with student/ (the best one) and summary.json."""
    from rich.console import Console

    from imitkd.cli.main import EXIT_INTERRUPTED
    from student_trainer.config import load_config
    from student_trainer.training import interrupted
    from student_trainer.training import train as run

    overrides = [*(overrides or []), *([f"runtime={runtime}"] if runtime else [])]
    resolved = load_config(config, overrides)
    directory = output or Path("runs") / resolved.name
    try:
        result = run(resolved, directory, resume=resume, console=Console())
    except KeyboardInterrupt:
        typer.echo(interrupted(directory), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    reason = "stopped early" if result.stopped_early else "done"
    typer.echo(f"{reason} after {result.steps} steps in {result.train_s:.0f} s: {directory}")
