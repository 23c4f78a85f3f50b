"""Configurations and teachers that come with imitkd, in a checkout or an installed wheel."""

from __future__ import annotations

from pathlib import Path

from seq2seq.errors import UserError


def shipped(relative: str) -> Path:
    """Path of a shipped file or directory, ``configs/...`` or ``teachers/...``.

    Relative where it lies below the working directory.

    Raises:
        UserError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for root in (package.parent, package):
        found = root / relative
        if found.exists():
            return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    raise UserError(f"{relative} is not in this installation of imitkd; install it again")
