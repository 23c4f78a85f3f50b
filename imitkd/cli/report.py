"""`imitkd report`: one page of runs and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_STUDY...", help="Run directories, directories of results."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: report.html in the first of them.")
    ] = None,
) -> None:
    """Write one self-contained HTML page: tables, learning curves, the exposure-bias picture,
    quality against speed, examples where methods differ, and what was run."""
    from imitkd.report import write_report

    file = out or paths[0] / "report.html"
    write_report(paths, file)
    typer.echo(f"{file}: {file.stat().st_size / 1e3:,.0f} kB")
