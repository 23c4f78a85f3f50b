"""A teacher as a process of its own, for as long as a block lasts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from seq2seq.errors import UserError

_STOP_S = 60.0


def serve_arguments(*models: Path, threads: int | None = None) -> list[str]:
    """Arguments of ``imitkd`` that serve a model, or an ensemble, on a free loopback port.

    For :func:`serving`, which holds the standard input that the teacher ends with.
    """
    pinned = ["--threads", str(threads)] if threads else []
    own = ["--address", "127.0.0.1:0", "--end-with-stdin"]
    return ["teacher", "serve", *map(str, models), *own, *pinned]


@contextmanager
def serving(arguments: Sequence[str], log_file: Path) -> Iterator[str]:
    """Run ``imitkd`` with these arguments; the address once the teacher serves.

    The process gets SIGTERM at the end of the block and is waited for; its log goes to
    ``log_file``. Where this process is killed, the other end of its standard input closes.

    Raises:
        UserError: it did not start, or ended with a fault.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = open(log_file, "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write {log_file}: {error.strerror}; choose another directory"
        ) from error
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "imitkd", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _started(process, log_file)
        finally:
            process.terminate()
            try:
                code = process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
    if code != 0:
        raise UserError(f"the teacher ended with exit code {code}; see {log_file}")


def _started(process: subprocess.Popen[str], log_file: Path) -> str:
    """The address, once the model is loaded; the port is bound long before."""
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        event = json.loads(line)
        address = event.get("address", address)
        if event["event"] == "serving":
            return address
    said = log_file.read_text(errors="replace").strip().splitlines() or ["no reason given"]
    reason = said[-1].removeprefix("imitkd: ")
    raise UserError(f"the teacher did not start: {reason} ({log_file} has all it said)")
