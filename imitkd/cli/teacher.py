"""`imitkd teacher`: train one, serve one, ask one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from teacher_service.command import serve

app = typer.Typer(name="teacher", help="Train, serve and query teachers.", no_args_is_help=True)
app.command()(serve)

Address = Annotated[
    list[str],
    typer.Option(
        help="HOST:PORT, unix:PATH or file:/PATH of a serving teacher; repeat it, or put commas "
        "between, for several replicas."
    ),
]
TokenFile = Annotated[Path | None, typer.Option(help="File with the bearer token.")]
Roots = Annotated[Path | None, typer.Option(help="PEM authority; makes the connection TLS.")]
Certificate = Annotated[
    Path | None, typer.Option(help="PEM certificate for a teacher that asks its callers for one.")
]
Key = Annotated[Path | None, typer.Option(help="PEM private key of the client certificate.")]
_LOCAL = "127.0.0.1:50051"
_ADDRESS = [_LOCAL]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration (method vanilla).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
) -> None:
    """Train a teacher on references until validation stops improving; ends with OUTPUT/teacher.

    The directory written is a model directory with its card: data, configuration, steps, test BLEU
    and chrF, and how to reproduce it.
    """
    from rich.console import Console

    from imitkd.teacher_training import train_teacher

    train_teacher(config, overrides or [], output, resume=resume, console=Console())


@app.command()
def info(
    address: Address = _ADDRESS,
    token_file: TokenFile = None,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
) -> None:
    """Print what every replica of a teacher says of itself, a JSON object each."""
    from imitkd.asking import connect, print_replicas

    with connect(address, token_file, roots, client_certificate, client_key) as client:
        print_replicas(client)


@app.command()
def health(
    address: Annotated[str, typer.Option(help="HOST:PORT or unix:PATH of one server.")] = _LOCAL,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="How long it may take.")] = 5.0,
) -> None:
    """Ask one server once whether it serves, and end with status 1 where not; for health checks.

    No token is needed.
    """
    from teacher_service.channel import Credentials
    from teacher_service.probe import probe

    shown = Credentials.read(None, roots, client_certificate, client_key)
    status = probe(address, shown, timeout_s)
    typer.echo(status)
    if status != "SERVING":
        raise typer.Exit(1)


@app.command()
def score(
    source: Annotated[str, typer.Option(help="Source text.")],
    target: Annotated[str, typer.Option(help="Target text to be scored.")],
    top_k: Annotated[int, typer.Option(min=1, help="Candidates at each position.")] = 5,
    temperature: Annotated[float, typer.Option(help="Of the distributions.")] = 1.0,
    address: Address = _ADDRESS,
    token_file: TokenFile = None,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a target: at every position the teacher's candidates and what was written."""
    from imitkd.asking import connect, print_scores, score_text

    with connect(address, token_file, roots, client_certificate, client_key) as client:
        print_scores(score_text(client, source, target, top_k, temperature), as_json)


@app.command("score-corpus")
def score_corpus(
    corpus: Annotated[Path, typer.Argument(help="Corpus directory.")],
    out: Annotated[Path, typer.Option(help="Score store to write, or to go on with.")],
    split: Annotated[str, typer.Option(help="Split to score.")] = "train",
    top_k: Annotated[int, typer.Option(min=1, help="Candidates kept at each position.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0.01, max=100, help="Of the distributions.")
    ] = 1.0,
    sentences: Annotated[
        int | None,
        typer.Option(min=1, help="So many, drawn as corpus.sentences draws them; default all."),
    ] = None,
    candidates: Annotated[
        bool,
        typer.Option(
            "--candidates",
            help="Score the teacher's best candidates of `imitkd data distil`, not the references.",
        ),
    ] = False,
    address: Address = _ADDRESS,
    token_file: TokenFile = None,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
) -> None:
    """Score every pair of a corpus split, and keep the scores for training without a teacher.

    A training configuration names them: teacher: {store: OUT}. Pairs that OUT has already are not
    asked for again, so a command that was ended goes on from there.
    """
    from rich.console import Console

    from imitkd.asking import START_PATIENCE_S, WORK_PATIENCE_S, connect
    from imitkd.score_corpus import score_corpus as run
    from teacher_service.codec import TopKSpec

    with connect(
        address, token_file, roots, client_certificate, client_key, patience_s=WORK_PATIENCE_S
    ) as client:
        client.wait_ready(START_PATIENCE_S)
        done = run(
            client,
            corpus,
            split,
            out,
            TopKSpec(top_k),
            temperature,
            sentences=sentences,
            candidates=candidates,
            console=Console(stderr=True),
        )
    typer.echo(f"{out}: {done.line()}")
    if done.left_out:
        typer.echo(
            f"{done.left_out:,} sentences are longer than the teacher takes and were left out",
            err=True,
        )


@app.command()
def generate(
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1 is greedy.")] = 1,
    n_best: Annotated[int, typer.Option(min=1, help="Hypotheses a source, tab separated.")] = 1,
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead.")] = False,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from so many; 0: all.")] = 5,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 1,
    address: Address = _ADDRESS,
    token_file: TokenFile = None,
    roots: Roots = None,
    client_certificate: Certificate = None,
    client_key: Key = None,
) -> None:
    """Have the teacher translate standard input, one text a line, to standard output.

    A text longer than the teacher takes loses its end, with a line on standard error.
    """
    from imitkd.asking import connect, generate_lines, mode_of

    mode = mode_of(beam, n_best, sample, top_k, temperature, seed)
    with connect(address, token_file, roots, client_certificate, client_key) as client:
        generate_lines(client, mode)


@app.command("import")
def import_(
    model: Annotated[
        Path, typer.Argument(help="Marian model (.npz, .bin) or the directory it is in.")
    ],
    output: Annotated[Path, typer.Option(help="Model directory to write.")],
    vocab: Annotated[
        Path | None, typer.Option(help=".spm or .yml; found beside the model by default.")
    ] = None,
    source_spm: Annotated[
        Path | None, typer.Option(help="With a .yml: cuts sources; default source.spm beside it.")
    ] = None,
    target_spm: Annotated[
        Path | None, typer.Option(help="With a .yml: cuts targets; default target.spm beside it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the output's name.")] = None,
    max_length: Annotated[
        int, typer.Option(min=1, max=4096, help="Longest source and target, in ids.")
    ] = 512,
) -> None:
    """Make a model directory of a Marian model: OPUS-MT, or one made for browsers."""
    from imitkd.importing.marian import import_marian
    from imitkd.importing.marian_files import find_files

    files = find_files(model, vocab, source_spm, target_spm)
    found = import_marian(files, output, name=name or output.name, max_length=max_length)
    typer.echo(
        f"{output}: {found.model.config.kind}, {found.model.parameter_count():,} parameters, "
        f"{found.vocabulary.size:,} ids"
    )


@app.command()
def trim(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    output: Annotated[Path, typer.Option(help="Model directory to write.")],
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Corpus directory, distilled or not. Repeatable.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(help="Text of the task, either language. Repeatable.")
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Keep pieces that occur so often.")] = 1,
    name: Annotated[str | None, typer.Option(help="Default: the output's name.")] = None,
) -> None:
    """Keep the part of a teacher's vocabulary that occurs in a task's text.

    Students share their teacher's vocabulary: of a general teacher's 32,000 pieces most would be
    embeddings that a small student has no use for.
    """
    from imitkd.trimming import texts_of, trim_directory
    from seq2seq.errors import UserError

    if not corpus and not text:
        raise UserError("nothing says which pieces to keep; give --corpus or --text")
    whole, left = trim_directory(
        model, output, texts_of(corpus or [], text or []), least=least, name=name
    )
    typer.echo(
        f"{output}: {left.vocabulary.size:,} of {whole.vocabulary.size:,} ids, "
        f"{left.model.parameter_count():,} of {whole.model.parameter_count():,} parameters"
    )
