"""The charts of a page: learning curves, the exposure-bias picture, quality against speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imitkd.report.charts import SHAPES, TEACHER, Chart, Line
from imitkd.report.reading import Record, Run, Study

# Points of a curve: a run of a hundred thousand steps is drawn as well as one of a hundred.
_POINTS = 120
_TEACHER = "teacher"


class Palette:
    """Gives every label a series number, the same in all charts of a page."""

    def __init__(self) -> None:
        self._numbers = {_TEACHER: TEACHER}

    def of(self, label: str) -> int:
        """The number of a label, a new one for a new label as long as there are colours."""
        fresh = (len(self._numbers) - 1) % TEACHER
        return self._numbers.setdefault(label, fresh)


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Names of runs; those that share one get their directories too."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.path})"
        for name, run in zip(names, runs, strict=True)
    ]


def learning_curves(runs: Sequence[Run], palette: Palette) -> list[Chart]:
    """Quality on validation, training loss, and beta where the student writes, over the steps."""
    named = list(zip(run_labels(runs), runs, strict=True))
    charts = []
    for metric, keys in {"BLEU": ("bleu",), "ROUGE": ("rouge1", "rouge2", "rougeL")}.items():
        lines = [
            Line(
                label,
                palette.of(label),
                [v["step"] for v in run.validations],
                [sum(v[key] for key in keys) / len(keys) for v in run.validations],
            )
            for label, run in named
            if run.validations and (metric_of(run) == metric)
        ]
        note = "Greedy output." if metric == "BLEU" else "Mean of ROUGE-1, -2 and -L, greedy."
        charts.append(Chart(f"Validation {metric}", "step", metric, lines, note))
    loss = [_curve(label, run.steps, "loss", palette) for label, run in named if run.steps]
    note = "Mean over about a hundredth of the run. Methods have losses of their own."
    charts.append(Chart("Training loss", "step", "nats a position", loss, note))
    beta = [
        _curve(label, run.steps, "beta", palette)
        for label, run in named
        if any(step.get("student_share") for step in run.steps)
    ]
    note = "Probability that a sentence keeps its reference."
    charts.append(Chart("Mixing", "step", "beta", beta, note))
    return [chart for chart in charts if chart.lines]


def metric_of(run: Run) -> str:
    """What a run was judged by."""
    return {"rouge": "ROUGE"}.get(run.config.get("validation", {}).get("metric", ""), "BLEU")


def _curve(label: str, steps: Sequence[Record], key: str, palette: Palette) -> Line:
    size = -(-len(steps) // _POINTS)
    parts = [steps[i : i + size] for i in range(0, len(steps), size)]
    means = [sum(s[key] for s in part) / len(part) for part in parts]
    return Line(label, palette.of(label), [part[-1]["step"] for part in parts], means)


def exposure(runs: Sequence[Run], palette: Palette) -> list[Chart]:
    """Quality by length, divergence by position, and what the teacher makes of beginnings."""
    analysed = [
        (label, run.analysis)
        for label, run in zip(run_labels(runs), runs, strict=True)
        if run.analysis is not None
    ]
    charts = []
    for metric in dict.fromkeys(a["metric"] for _, a in analysed):
        chosen = [(label, a) for label, a in analysed if a["metric"] == metric]
        name = metric.upper()
        charts.append(_by_length(chosen, name, palette))
        charts.append(_finishes(chosen, name, palette))
    if analysed:
        charts.insert(1, _divergence(analysed, palette))
    return charts


_Analysed = Sequence[tuple[str, dict[str, Any]]]


def _by_length(analysed: _Analysed, metric: str, palette: Palette) -> Chart:
    bins = analysed[0][1]["by_length"]
    lines = [
        Line(label, palette.of(label), range(len(a["by_length"])), _all(a["by_length"], "student"))
        for label, a in analysed
    ]
    teacher = _all(bins, "teacher")
    lines.append(Line(_TEACHER, palette.of(_TEACHER), range(len(bins)), teacher, dashed=True))
    ticks = [f"{b['low']}–{b['high']}" for b in bins]
    note = "Sentences in bins of about equal size by their source's length."
    return Chart(f"{metric} by length", "ids of the source", metric, lines, note, ticks)


def _divergence(analysed: _Analysed, palette: Palette) -> Chart:
    lines = [
        Line(label, palette.of(label), _all(a[key], "position"), _all(a[key], "kl"), dashed)
        for label, a in analysed
        for key, dashed in (("kl_own_prefixes", False), ("kl_reference_prefixes", True))
    ]
    note = "Solid: behind the student's own text. Dashed: behind references."
    title = "Teacher–student divergence by position"
    return Chart(title, "target position", "KL in nats", lines, note)


def _finishes(analysed: _Analysed, metric: str, palette: Palette) -> Chart:
    lines = [
        Line(
            label,
            palette.of(label),
            [100 * point["share"] for point in a["teacher_finishes"]],
            _all(a["teacher_finishes"], "quality"),
        )
        for label, a in analysed
    ]
    note = "At 0 % the teacher writes alone; at 100 % it may still go on where the student ended."
    title = "Student begins, teacher finishes"
    return Chart(title, "% of the student's text that is kept", metric, lines, note)


def _all(records: Sequence[Record], key: str) -> list[Any]:
    return [record[key] for record in records]


def quality_and_speed(study: Study, test: str, palette: Palette) -> Chart:
    """Every row of a test split: greedy sentences a second, and quality."""
    rows = [r for r in study.rows if r["test"] == test and r.get("greedy_sentences_per_s")]
    students = list(dict.fromkeys(row["student"] for row in rows if row["student"]))
    lines = [
        Line(
            row["method"],
            palette.of(row["method"]),
            [row["greedy_sentences_per_s"]],
            [quality_of(row)],
            shape=students.index(row["student"]) if row["student"] else len(SHAPES) - 1,
        )
        for row in rows
    ]
    shapes = [f"{SHAPES[i % len(SHAPES)]} {student}" for i, student in enumerate(students)]
    shapes.append(f"{SHAPES[-1]} teacher")
    return Chart(
        f"Quality against speed: {study.name}, {test}",
        "sentences a second, greedy",
        study_metric(study),
        lines,
        f"{', '.join(shapes)}. Up and to the right is better.",
        scattered=True,
    )


def evaluated_speed(runs: Sequence[Run], palette: Palette) -> Chart:
    """The same for evaluations that lie in run directories."""
    lines = []
    for label, run in zip(run_labels(runs), runs, strict=True):
        for name, e in run.evaluations.items():
            shown = f"{label}: {name.replace('_', ' ')}"
            value = e["rouge1"] if "rouge1" in e else e["bleu"]
            lines.append(Line(shown, palette.of(shown), [e["sentences_per_s"]], [value]))
    rouge = any("rouge1" in e for run in runs for e in run.evaluations.values())
    return Chart(
        "Quality against speed",
        "sentences a second",
        "ROUGE-1" if rouge else "BLEU",
        lines,
        "Of the files in evaluation/. Up and to the right is better.",
        scattered=True,
    )


def study_metric(study: Study) -> str:
    """The name of the quality that rows are compared by."""
    metric = str(study.results.get("metric", "bleu"))
    return f"ROUGE-{metric[5:]}".removesuffix("-") if metric.startswith("rouge") else "BLEU"


def quality_of(row: Record) -> float:
    """By the study's metric; greedy BLEU where the row has no other."""
    value: float = row["bleu_greedy"] if row.get("metric") is None else row["metric"]
    return value
