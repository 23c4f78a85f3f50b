"""`imitkd data distil`: a corpus with targets that the teacher wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imitkd.cli.teacher import Address, Certificate, Key, Roots, TokenFile

_ADDRESS = ["127.0.0.1:50051"]


def distil(
    corpus: Annotated[Path, typer.Argument(help="Corpus directory with the sources.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Corpus directory to write; default CORPUS-distilled.", metavar="DIR"),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split to write; repeat it. Default: train, and validation where it has "
            "sentences without references. The others come along as they are."
        ),
    ] = None,
    sentences: Annotated[
        int | None,
        typer.Option(
            min=1, help="So many of each, drawn as corpus.sentences draws them; default all."
        ),
    ] = None,
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1 is greedy.")] = 5,
    n_best: Annotated[int, typer.Option(min=1, help="Candidates kept of each source.")] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="Beams are ranked by log_prob / length ** this.")
    ] = 1.0,
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead.")] = False,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from so many; 0: all.")] = 5,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 1,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Most target ids; default: the teacher's limits.")
    ] = None,
    address: Address = _ADDRESS,
    token_file: TokenFile = None,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
) -> None:
    """Have a served teacher write targets for the sources of a corpus (for SeqKD and its kin).

    Its best hypotheses are kept beside the references, with their scores; sources need no
    references. A command that was ended goes on where it was.
    """
    from dataclasses import replace

    from rich.console import Console

    from imitkd.asking import START_PATIENCE_S, WORK_PATIENCE_S, connect, mode_of
    from imitkd.distilling.distil import distil_corpus
    from teacher_service.codec import Beam, LengthLimit

    mode = mode_of(1 if sample else beam, n_best, sample, top_k, temperature, seed)
    if isinstance(mode, Beam):
        mode = replace(mode, length_penalty=length_penalty)
    output = out or corpus.with_name(f"{corpus.name}-distilled")
    with connect(
        address, token_file, roots, client_certificate, client_key, patience_s=WORK_PATIENCE_S
    ) as client:
        client.wait_ready(START_PATIENCE_S)
        done = distil_corpus(
            client,
            corpus,
            output,
            mode,
            splits=split or (),
            sentences=sentences,
            limit=LengthLimit(cap=longest),
            console=Console(stderr=True),
        )
    typer.echo(f"{output}: {done.line()}")
    for reason, count in done.left_out.items():
        typer.echo(f"left out: {count:,}, {reason}", err=True)
