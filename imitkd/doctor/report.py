"""Findings for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imitkd.doctor.findings import Finding, Severity, exit_code

_STYLES = {
    Severity.ok: "green",
    Severity.skipped: "dim",
    Severity.warning: "yellow",
    Severity.error: "bold red",
}


def print_table(findings: Sequence[Finding], title: str, console: Console) -> None:
    """A row a finding, its remedy below it; then the count of each severity."""
    table = Table(title=title, title_justify="left", show_lines=False, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("finding", overflow="fold")
    last = ""
    for finding in findings:
        style = _STYLES[finding.severity]
        told = Text(finding.message, style="dim" if finding.severity is Severity.skipped else "")
        if finding.remedy:
            told.append(f"\n-> {finding.remedy}", style=style)
        name = finding.check if finding.check != last else ""
        table.add_row(name, Text(str(finding.severity), style=style), told)
        last = finding.check
    console.print(table)
    console.print(summary(findings), highlight=False)


def summary(findings: Sequence[Finding]) -> str:
    """How many of each severity, the worst first."""
    counts = {s: sum(f.severity is s for f in findings) for s in reversed(Severity)}
    named = [
        f"{n} {severity}{'s' * (n > 1 and severity in (Severity.error, Severity.warning))}"
        for severity, n in counts.items()
        if n
    ]
    return ", ".join(named)


def to_json(findings: Sequence[Finding], config: str) -> str:
    """One JSON object."""
    return json.dumps(
        {
            "config": config,
            "exit_code": exit_code(findings),
            "findings": [
                {
                    "check": f.check,
                    "severity": f.severity,
                    "message": f.message,
                    "remedy": f.remedy,
                    "facts": f.facts,
                }
                for f in findings
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
