"""`imitkd evaluate`: score a model directory on a split of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model directory: a teacher or a student.")],
    corpus: Annotated[Path, typer.Argument(help="Prepared corpus directory.")],
    split: Annotated[str, typer.Option(help="Split of the corpus.")] = "test",
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1 is greedy.")] = 1,
    sentences: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:I.")] = "cpu",
    repeats: Annotated[
        int, typer.Option(min=1, help="Translate so many times; the median gives the speed.")
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write scores and translations here.")
    ] = None,
) -> None:
    """Translate a split and print BLEU, chrF (sacreBLEU, with signatures) and the speed."""
    from imitkd.scoring import evaluate_directory, print_evaluation, write_evaluation

    found = evaluate_directory(
        model,
        corpus,
        split,
        beam=beam,
        sentences=sentences,
        threads=threads,
        device=device,
        repeats=repeats,
    )
    print_evaluation(found)
    if json_file is not None:
        write_evaluation(found, json_file)
