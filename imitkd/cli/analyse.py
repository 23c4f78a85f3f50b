"""`imitkd analyse`: what a student's own mistakes lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def analyse(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished run directories.")],
    corpus: Annotated[
        Path | None, typer.Option(help="Prepared corpus directory; default: the run's.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the corpus.")] = "test",
    sentences: Annotated[int, typer.Option(min=1, help="The first so many.")] = 500,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Model directory to serve meanwhile; several times: an ensemble."),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a serving teacher; default: the run's."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    beam: Annotated[int, typer.Option(min=1, help="Of the teacher's texts; 1 is greedy.")] = 1,
) -> None:
    """Write RUN/analysis.json: quality by length, teacher-student divergence by position behind
    references and behind the student's own text, and texts the student begins and the teacher
    finishes. `imitkd report` shows them."""
    from imitkd.analysing import ANALYSIS_FILE, Question, analyse_runs
    from seq2seq.errors import UserError

    if teacher and address:
        raise UserError("--teacher and --address exclude each other; give one of them")
    question = Question(corpus, split, sentences, teacher or (), address, token_file, beam)
    for run, found in analyse_runs(runs, question).items():
        name = {"bleu": "BLEU", "rouge": "ROUGE"}[found["metric"]]
        by_share = {point["share"]: point["quality"] for point in found["teacher_finishes"]}
        typer.echo(
            f"{run}: {name} {found['quality']:.1f}; from half way on the teacher's "
            f"{by_share[0.5]:.1f}; teacher alone {by_share[0.0]:.1f} "
            f"({found['sentences']} sentences): {run / ANALYSIS_FILE}"
        )
