"""`imitkd doctor`: examine a training configuration before a long run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imitkd.cli.train import Runtime

app = typer.Typer()


@app.command()
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML configuration, as for `imitkd train`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="As for `imitkd train`."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run directory of the run to be; default runs/NAME.")
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="As for `imitkd train`.", show_default=False)
    ] = None,
    teacher_directory: Annotated[
        Path | None,
        typer.Option(help="The served teacher's model directory, to compare its scores with."),
    ] = None,
    serve: Annotated[
        Path | None,
        typer.Option(
            help="Serve this model directory for the examination, in the place of teacher.address."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave a check out, by its name; repeat it.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a silent teacher is waited for.")
    ] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Sentences per second to size workers, replicas and learners for; by default as "
            "many as one learner makes.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a training run before it begins: teacher, data, machine, disk, duration.

    Nothing is written. Exit status: 0 nothing to see to, 1 warnings, 2 errors (or a configuration
    that is not valid).
    """
    import os

    # gRPC's C core writes its own lines about refused connections otherwise.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from rich.console import Console

    from imitkd.doctor.command import findings_of
    from imitkd.doctor.findings import exit_code
    from imitkd.doctor.report import print_table, to_json

    findings = findings_of(
        config,
        [*(overrides or []), *([f"runtime={runtime}"] if runtime else [])],
        output,
        teacher_directory=teacher_directory,
        serve=serve,
        skip=skip or (),
        patience_s=patience,
        target_rate=rate,
        console=Console(stderr=True),
    )
    if as_json:
        typer.echo(to_json(findings, str(config)))
    else:
        print_table(findings, str(config), Console())
    raise typer.Exit(exit_code(findings))
