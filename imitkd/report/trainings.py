"""What curves are drawn from, in one form: runs, and the cells of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from imitkd.report.reading import Cell, Curve, Record, Run, Study


@dataclass(frozen=True)
class Training:
    """What is known of one training.

    Attributes:
        label: its name in legends.
        curve: its validations, None without any.
        analysis: of `imitkd analyse`, None without one.
        steps: records of optimiser steps, which a study does not keep.
    """

    label: str
    curve: Curve | None
    analysis: Record | None
    steps: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Trainings that are drawn together; one without a title is of runs."""

    title: str
    trainings: list[Training]
    note: str = ""

    def titled(self, text: str) -> str:
        """A heading that says which group it is of."""
        return f"{text}: {self.title}" if self.title else text


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Names of runs; those that share one get their directories too."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.path})"
        for name, run in zip(names, runs, strict=True)
    ]


def of_runs(runs: Sequence[Run]) -> Group:
    """All runs of a page."""
    labelled = zip(run_labels(runs), runs, strict=True)
    return Group("", [Training(label, r.curve, r.analysis, r.steps) for label, r in labelled])


def of_study(study: Study) -> list[Group]:
    """The methods of each student: of a method the first seed that has a curve or an analysis."""
    cells: dict[str, dict[str, list[Cell]]] = {}
    for cell in study.cells:
        if cell.student:
            cells.setdefault(cell.student, {}).setdefault(cell.method, []).append(cell)
    return [
        Group(
            f"{study.name}, {student}",
            [
                Training(
                    method,
                    next((cell.curve for cell in seeds if cell.curve), None),
                    next((cell.analysis for cell in seeds if cell.analysis), None),
                )
                for method, seeds in methods.items()
            ],
            "One seed of each method, the first that has what is drawn.",
        )
        for student, methods in cells.items()
    ]
