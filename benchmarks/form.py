"""The one form of all benchmarks: what was run, where, when, and the figures."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        goal: what it should reach, in words with a bound (">= 0.9"); None where it is only told.
    """

    value: float
    unit: str
    goal: str | None = None


@dataclass(frozen=True)
class Result:
    """The figures of one run by name, and whatever explains them."""

    figures: dict[str, Figure]
    detail: dict[str, Any] = field(default_factory=dict)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over turns of the ratio within a turn.

    A shared machine changes its speed within seconds; what ran side by side met the same one.
    """
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def run(
    name: str, measure: Callable[..., Result], options: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Parse the flags, measure, print a table, write JSON.

    Args:
        name: module name behind ``benchmarks.``.
        measure: told whether ``--quick`` was given, and the values of its own options by name.
        options: those, as ``argparse`` takes them.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--quick", action="store_true", help="smaller, for a first look")
    for flag, settings in (options or {}).items():
        parser.add_argument(flag, **settings)
    arguments = parser.parse_args()
    own = {k: v for k, v in vars(arguments).items() if k not in ("json", "quick")}
    result = measure(arguments.quick, **own)
    written = {
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "figures": {k: asdict(v) for k, v in result.figures.items()},
        "detail": result.detail,
    }
    table = Table(title=f"benchmarks.{name}")
    for column in ("figure", "value", "unit", "goal"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for key, figure in result.figures.items():
        table.add_row(key, f"{figure.value:.4g}", figure.unit, figure.goal or "")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")
