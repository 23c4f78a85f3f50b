"""`imitkd translate`: standard input to standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def translate(
    model: Annotated[Path, typer.Argument(help="Model directory: a teacher or a student.")],
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1 is greedy.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:I.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Lines translated together.")] = 256,
) -> None:
    """Translate standard input, one text a line, to standard output; order is kept.

    A text longer than the model takes loses its end, with a line on standard error.
    """
    import sys

    import torch

    from imitkd.text_lines import encode_lines, read_lines
    from seq2seq.checkpoint import load_model_directory
    from seq2seq.decoding import Beam, Greedy, generate

    directory = load_model_directory(model, device)
    if threads is not None:
        torch.set_num_threads(threads)
    mode = Beam(beam) if beam > 1 else Greedy()
    longest = directory.model.config.max_source_length
    for first, texts in read_lines(sys.stdin.buffer, batch):
        sources = encode_lines(directory.vocabulary, texts, first, longest)
        for hypotheses in generate(directory.model, sources, mode, log_probs=False):
            print(directory.vocabulary.decode(hypotheses[0].ids))
        sys.stdout.flush()
