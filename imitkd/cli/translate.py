"""`imitkd translate`: standard input, or a file, to standard output, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_MODEL = "Export or model directory, of a teacher or a student; its engine is found by what it is."


@app.command()
def translate(
    directory: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help=_MODEL)] = None,
    model: Annotated[Path | None, typer.Option("--model", help="The same, as an option.")] = None,
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1 is greedy.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:I.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Lines translated together.")] = 256,
    source: Annotated[
        Path | None, typer.Option("--input", help="File to translate; default: standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write; default: standard output.")
    ] = None,
) -> None:
    """Translate a text a line; order is kept, a blank line stays blank.

    A text longer than the model takes loses its end, with a line on standard error. A file that is
    read shows a progress bar; a file that is written is put in place whole, at the end.
    """
    from imitkd.translating import translate_lines
    from imitkd.translator import Translator
    from seq2seq.errors import UserError

    path = directory or model
    if path is None or (directory and model):
        raise UserError("name one model: `imitkd translate DIR` or `imitkd translate --model DIR`")
    translator = Translator(path, threads=threads, device=device, beam=beam)
    translate_lines(translator, source, output, batch)
