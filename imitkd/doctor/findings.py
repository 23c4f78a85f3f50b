"""What a check found: how bad it is, what it is, what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """``error``: the run would fail or be worth nothing; ``warning``: it would run, look at it."""

    ok = "ok"
    skipped = "skipped"
    warning = "warning"
    error = "error"


_EXIT_CODES = {Severity.ok: 0, Severity.skipped: 0, Severity.warning: 1, Severity.error: 2}


@dataclass(frozen=True)
class Finding:
    """One thing a check has to say.

    Attributes:
        remedy: what to do; empty where nothing is to be done.
        facts: the numbers behind the message, for machines; plain JSON values.
        check: who says so; the examination fills it in.
    """

    severity: Severity
    message: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    check: str = ""


def ok(message: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(Severity.ok, message, facts=facts)


def skipped(message: str, remedy: str = "") -> Finding:
    """Nothing was looked at, for this reason."""
    return Finding(Severity.skipped, message, remedy)


def warning(message: str, remedy: str, **facts: Any) -> Finding:
    """The run would go through."""
    return Finding(Severity.warning, message, remedy, facts)


def error(message: str, remedy: str, **facts: Any) -> Finding:
    """The run would fail, or what comes of it would be worth nothing."""
    return Finding(Severity.error, message, remedy, facts)


def of_exception(fault: Exception) -> Finding:
    """An error from a message of the form "what is wrong; what to do"."""
    message, _, remedy = " ".join(str(fault).split()).rpartition("; ")
    return error(message, remedy) if message else error(remedy, "")


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing to see to, 1: warnings, 2: errors."""
    return max((_EXIT_CODES[f.severity] for f in findings), default=0)
