"""`imitkd export`: a student for an inference engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(help="Run directory (its best student) or model directory.")
    ],
    to: Annotated[str, typer.Option(help="ctranslate2, huggingface or onnx.")],
    out: Annotated[Path, typer.Option(help="Directory to write; an older export is replaced.")],
    quantization: Annotated[
        str, typer.Option(help="Of the weights: float32, int8 or int8_float32 (ctranslate2).")
    ] = "float32",
    corpus: Annotated[
        Path | None, typer.Option(help="Corpus directory to check on; default: the run's.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the corpus to check on.")] = "validation",
    sentences: Annotated[
        Path | None, typer.Option(help="Check on this file instead, one text a line.")
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Check on the first so many only.")
    ] = None,
    max_bleu_loss: Annotated[
        float, typer.Option(min=0.0, help="Quantised weights may cost so much BLEU.")
    ] = 1.0,
    licence: Annotated[str | None, typer.Option(help="Of the model, for its card.")] = None,
) -> None:
    """Write a student in the form of an inference engine, checked against its source.

    In float32 the export must write what the student writes, sentence by sentence (two tokens that
    are as good as equal excepted); quantised, what differs and what it costs is told. What fails
    is not written.
    """
    from imitkd.export.exporting import CheckOn, export

    found = export(
        source,
        to,
        out,
        quantization,
        CheckOn(corpus, split, sentences, first, max_bleu_loss),
        licence,
    )
    check = found.check
    print(f"{found.path}: {to}, {quantization}, {found.megabytes:.1f} MB")
    ties = f" ({check.ties} where two tokens are as good as equal)" if check.ties else ""
    print(f"checked on {check.sentences} sentences ({check.where}): {check.differing} differ{ties}")
    if check.before is not None and check.after is not None:
        print(
            f"BLEU {check.after.bleu:.2f}, source {check.before.bleu:.2f}   "
            f"{check.before.bleu_signature}"
        )
