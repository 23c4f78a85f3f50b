"""`imitkd doctor` from its arguments to its exit code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from imitkd.doctor.checks import CHECKS
from imitkd.doctor.examination import Examination, examine
from imitkd.doctor.findings import Finding
from imitkd.serving import serve_arguments, serving
from student_trainer.config import RunConfig, load_config


def findings_of(
    config: Path,
    overrides: Sequence[str],
    output: Path | None,
    *,
    teacher_directory: Path | None = None,
    serve: Path | None = None,
    skip: Sequence[str] = (),
    patience_s: float,
    target_rate: float | None = None,
    console: Console,
) -> list[Finding]:
    """Everything the checks have to say.

    Args:
        serve: model directory to serve for as long as this takes, in the place of the teacher's
            address.
        target_rate: sentences/s that the numbers of the check ``sizing`` are for.
        console: shows which check is under way.

    Raises:
        UserError: the configuration is not valid, or the teacher to be served does not start.
    """
    with _teacher(serve) as address:
        named = [*overrides, f"teacher.address={address}"] if address else overrides
        resolved: RunConfig = load_config(config, named)
        examination = Examination(
            resolved,
            output or Path("runs") / resolved.name,
            teacher_directory or serve,
            patience_s=patience_s,
            target_rate=target_rate,
        )
        with console.status("") as status:
            return list(examine(examination, CHECKS, skip, lambda name: status.update(name)))


@contextmanager
def _teacher(directory: Path | None) -> Iterator[str | None]:
    """The address of a teacher served here, if one is to be."""
    if directory is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="doctor-") as place:
        log = Path(place) / "teacher.log"
        with serving(serve_arguments(directory), log) as address:
            yield address
