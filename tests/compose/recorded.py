"""The demo's figures as the documentation records them: what a run of it must come near."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Processors differ in the last bits of their sums: the student learns otherwise, the teacher writes
# a sentence or two otherwise.
STUDENT_WITHIN, TEACHER_WITHIN = 2.0, 0.5


def student_bleu(steps: int) -> tuple[float, float]:
    """Between which the student's BLEU, greedy, lies: README.md has 600 steps, the whole demo,
    docs/deployment.md the 300 of the containers' test."""
    if steps == 600:
        found = _table_row("student")
    else:
        text = (ROOT / "docs" / "deployment.md").read_text()
        named = re.search(rf"\b{steps} steps \(a\s+student\s+of\s+([\d.]+)\s+BLEU", text)
        assert named is not None, f"docs/deployment.md records no student of {steps} steps"
        found = float(named[1])
    return found - STUDENT_WITHIN, found + STUDENT_WITHIN


def teacher_bleu() -> tuple[float, float]:
    """Between which the teacher's BLEU, greedy, lies."""
    found = _table_row("teacher")
    return found - TEACHER_WITHIN, found + TEACHER_WITHIN


def _table_row(model: str) -> float:
    text = (ROOT / "README.md").read_text()
    (row,) = re.findall(rf"│ {model}, greedy +│ +([\d.]+) │", text)
    return float(row)
