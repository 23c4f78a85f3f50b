"""`imitkd status`, `imitkd ledger` and `imitkd scale`: a run, from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Run = Annotated[Path, typer.Argument(help="Run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Print how a run stands, on this machine or another one that shares its directory."""
    import json
    from dataclasses import asdict

    from imitkd.run_reports import status_lines
    from student_trainer.run_directory import RunDirectory
    from student_trainer.status import read_status

    found = read_status(RunDirectory(run))
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else "\n".join(status_lines(found)))


@app.command()
def ledger(
    run: Run,
    corpus: Annotated[
        Path | None, typer.Option(help="Where the run's corpus lies now.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every sentence of a run was learnt exactly once; exit status 1 where not."""
    import json
    from dataclasses import asdict

    from student_trainer.ledger_check import check_ledger
    from student_trainer.run_directory import RunDirectory

    account = check_ledger(RunDirectory(run), corpus)
    if as_json:
        typer.echo(json.dumps(asdict(account) | {"holds": account.holds}, indent=2))
    else:
        typer.echo(account.verdict())
        if len(account.hosts) > 1:
            shares = (f"{host} {count:,}" for host, count in sorted(account.hosts.items()))
            typer.echo(f"shards by machine: {', '.join(shares)}")
        for fault in account.faults[1:]:
            typer.echo(f"  {fault}")
    if not account.holds:
        raise typer.Exit(1)


@app.command()
def scale(
    run: Run,
    workers: Annotated[int, typer.Option(min=1, help="How many there shall be.")],
) -> None:
    """Ask a run that is on for another number of rollout workers.

    More of them begin as the Ray cluster has room; those too many go when their shards are done.
    What is learnt does not depend on their number.
    """
    from student_trainer.run_directory import RunDirectory
    from student_trainer.scaling import request_workers

    request_workers(RunDirectory(run), workers)
    typer.echo(f"{run}: asked for {workers} workers; the run looks before every step")
