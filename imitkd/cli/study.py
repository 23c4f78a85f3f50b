"""`imitkd study`: a teacher and many methods under the same conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="YAML study file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="For instance train.optimiser.steps=100."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Results directory; default results/NAME.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Training runs; default runs/studies/NAME.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--cells",
            metavar="PATTERN",
            help="Run these cells alone, e.g. 'transformer/*/seed1'; may be repeated.",
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Only make results and table anew from the texts there."),
    ] = False,
) -> None:
    """Run a study: results.json, table.md and the texts of every cell.

    Finished cells are kept, so a study that was stopped goes on where it was.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from imitkd.study.plan import load_study
    from imitkd.study.runner import TABLE_FILE, Study

    settings = load_study(config, overrides)
    directory = output or Path("results") / settings.name
    console = Console()
    task = Study(
        settings,
        directory,
        runs or Path("runs") / "studies" / settings.name,
        only=only or (),
        console=console,
    )
    if rescore:
        task.rescore()
    else:
        task.run()
    table = (directory / TABLE_FILE).read_text()
    # Rendered into less room, cells are cut off and nothing can be read.
    if console.width >= max(len(line) for line in table.splitlines() if line.startswith("|")):
        console.print(Markdown(table))
    else:
        typer.echo(table)
    typer.echo(f"results: {directory}")
