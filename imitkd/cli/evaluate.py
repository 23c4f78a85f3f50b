"""`imitkd evaluate`: score a model directory on a split of a corpus."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


class Metric(StrEnum):
    """What the output is scored by."""

    bleu = "bleu"
    rouge = "rouge"


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
    metric: Annotated[
        Metric, typer.Option(help="rouge: ROUGE-1/2/L too, for summaries; needs rouge-score.")
    ] = Metric.bleu,
    joined: Annotated[
        list[Path] | None,
        typer.Option("--join", help="Another member of an ensemble, repeatable."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write scores and translations here.")
    ] = None,
) -> None:
    """Translate a split; print BLEU, chrF (ROUGE too where asked for), signatures, the speed."""
    from imitkd.scoring import evaluate_directory, print_evaluation, write_evaluation

    found = evaluate_directory(
        [model, *(joined or [])],
        corpus,
        split,
        beam=beam,
        sentences=sentences,
        threads=threads,
        device=device,
        repeats=repeats,
        metric=metric.value,
    )
    print_evaluation(found)
    if json_file is not None:
        write_evaluation(found, json_file)
