"""What a run came to: its losses, while it is on and afterwards, and its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from student_trainer.types import StepReport, ValidationReport


class Losses:
    """An observer that keeps the loss of every step, and can do something after one."""

    def __init__(self, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.found: list[float] = []
        self._at, self._act = at, act

    def on_step(self, report: StepReport, wall_s: float) -> None:
        self.found.append(report.loss)
        if report.step == self._at:
            self._act()

    def on_validation(self, report: ValidationReport) -> None:
        pass


def losses_of(path: Path) -> list[float]:
    """Of all steps, from the run directory."""
    records = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [r["loss"] for r in records if r["kind"] == "step"]


def last_checkpoint(path: Path) -> bytes:
    """Weights, moments, average, versions."""
    newest = max((path / "checkpoints").iterdir())
    return (newest / "tensors.safetensors").read_bytes()
