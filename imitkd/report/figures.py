"""The charts of a page: learning curves, the exposure-bias picture, quality against speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imitkd.report.charts import SHAPES, TEACHER, Chart, Line, place
from imitkd.report.reading import Record, Run, Study
from imitkd.report.trainings import Group, Training, run_labels

# Points of a curve: a run of a hundred thousand steps is drawn as well as one of a hundred.
_POINTS = 120
_TEACHER = "teacher"


class Palette:
    """Gives every label a series number, the same in all charts of a page."""

    def __init__(self) -> None:
        self._numbers = {_TEACHER: TEACHER}

    def of(self, label: str) -> int:
        """The number of a label, the next one for a new label."""
        return self._numbers.setdefault(label, len(self._numbers) - 1)


def learning_curves(group: Group, palette: Palette) -> list[Chart]:
    """Quality on validation, training loss, and beta where the student writes, over the steps."""
    trainings = group.trainings
    charts = []
    for metric, keys in {"BLEU": ("bleu",), "ROUGE": ("rouge1", "rouge2", "rougeL")}.items():
        lines = []
        for one in trainings:
            if one.curve and metric == _judged_by(one.curve.metric):
                points = [p for p in one.curve.points if all(p.get(k) is not None for k in keys)]
                quality = [sum(p[key] for key in keys) / len(keys) for p in points]
                lines.append(_line(one, _all(points, "step"), quality, palette))
        note = "Greedy output." if metric == "BLEU" else "Mean of ROUGE-1, -2 and -L, greedy."
        charts.append(Chart(f"Validation {metric}", "step", metric, lines, note))
    loss = [_smoothed(one, "loss", palette) for one in trainings if one.steps]
    note = "Mean over about a hundredth of the run. Methods have losses of their own."
    charts.append(Chart("Training loss", "step", "nats a position", loss, note))
    beta = [
        _smoothed(one, "beta", palette)
        for one in trainings
        if any(step.get("student_share") for step in one.steps)
    ]
    note = "Probability that a sentence keeps its reference."
    charts.append(Chart("Mixing", "step", "beta", beta, note))
    return [
        replace(chart, title=group.titled(chart.title), note=f"{chart.note} {group.note}".rstrip())
        for chart in charts
        if any(line.x for line in chart.lines)
    ]


def _judged_by(metric: str) -> str:
    return "ROUGE" if metric.startswith("rouge") else "BLEU"


def _line(one: Training, x: Sequence[float], y: Sequence[float], palette: Palette) -> Line:
    return Line(one.label, palette.of(one.label), x, y)


def _smoothed(one: Training, key: str, palette: Palette) -> Line:
    size = -(-len(one.steps) // _POINTS)
    parts = [one.steps[i : i + size] for i in range(0, len(one.steps), size)]
    means = [sum(s[key] for s in part) / len(part) for part in parts]
    return _line(one, [part[-1]["step"] for part in parts], means, palette)


_Analysed = Sequence[tuple[Training, Record]]


def exposure(group: Group, palette: Palette) -> list[Chart]:
    """Quality by length, divergence by position, and what the teacher makes of beginnings.

    Only analyses of the same sentences against the same teacher are drawn together.
    """
    alike: dict[Any, list[tuple[Training, Record]]] = {}
    for one in group.trainings:
        if one.analysis is not None:
            alike.setdefault(_compared_on(one.analysis), []).append((one, one.analysis))
    return [
        chart
        for analysed in alike.values()
        for chart in (
            _by_length(analysed, palette),
            _finishes(analysed, palette),
            *_divergences(analysed, palette),
        )
    ]


def _compared_on(analysis: Record) -> Any:
    """What analyses must have in common; lengths are of ids, so of a vocabulary."""
    teacher = analysis.get("teacher", {})
    said = [analysis.get(key) for key in ("metric", "corpus", "split", "sentences")]
    bins = [(b["low"], b["high"]) for b in analysis["by_length"]]
    return (*said, teacher.get("revision"), teacher.get("beam"), tuple(bins))


def _sentences(analysed: _Analysed) -> str:
    """Which sentences and teacher a chart is of, where the analysis says so."""
    _, first = analysed[0]
    if not first.get("corpus"):
        return ""
    where = f"{first['sentences']:,} sentences of {first['corpus']}, {first['split']}"
    return f" {where}; teacher {first['teacher']['name']}."


def _by_length(analysed: _Analysed, palette: Palette) -> Chart:
    metric = analysed[0][1]["metric"].upper()
    bins = analysed[0][1]["by_length"]
    places = range(len(bins))
    lines = [_line(one, places, _all(a["by_length"], "student"), palette) for one, a in analysed]
    lines.append(Line(_TEACHER, palette.of(_TEACHER), places, _all(bins, "teacher")))
    ticks = [f"{b['low']}–{b['high']}" for b in bins]
    note = "Sentences in bins of about equal size by their source's length."
    note += _sentences(analysed)
    return Chart(f"{metric} by length", "ids of the source", metric, lines, note, ticks)


def _divergences(analysed: _Analysed, palette: Palette) -> list[Chart]:
    charts = []
    for key, behind in (
        ("kl_own_prefixes", "its own text"),
        ("kl_reference_prefixes", "references"),
    ):
        lines = [
            _line(one, _all(a[key], "position"), _all(a[key], "kl"), palette) for one, a in analysed
        ]
        title = f"Divergence from the teacher behind {behind}"
        charts.append(Chart(title, "target position", "KL in nats", lines))
    # Drawn to one scale: what is seen is how much more there is behind the student's own text.
    top = max(y for chart in charts for line in chart.lines for y in line.y)
    note = "Both charts of the divergence have one scale." + _sentences(analysed)
    return [replace(chart, y_range=(0.0, 1.05 * top), note=note) for chart in charts]


def _finishes(analysed: _Analysed, palette: Palette) -> Chart:
    lines = [
        _line(
            one,
            [100 * point["share"] for point in a["teacher_finishes"]],
            _all(a["teacher_finishes"], "quality"),
            palette,
        )
        for one, a in analysed
    ]
    note = "At 0 % the teacher writes alone; at 100 % it may still go on where the student ended."
    note += _sentences(analysed)
    title, metric = "Student begins, teacher finishes", analysed[0][1]["metric"].upper()
    return Chart(title, "% of the student's text that is kept", metric, lines, note)


def _all(records: Sequence[Record], key: str) -> list[Any]:
    return [record[key] for record in records]


def quality_and_speed(study: Study, test: str, palette: Palette) -> Chart:
    """Methods on a test split, as means over seeds: greedy sentences a second, and quality."""
    found = study.results.get("means") or study.rows
    rows = [r for r in found if r["test"] == test and r.get("greedy_sentences_per_s")]
    students = list(dict.fromkeys(row["student"] for row in rows if row["student"]))
    lines = [
        Line(
            row["method"],
            palette.of(row["method"]),
            [row["greedy_sentences_per_s"]],
            [quality_of(row)],
            shape=students.index(row["student"]) if row["student"] else TEACHER,
        )
        for row in rows
    ]
    shapes = [f"{SHAPES[place(i)]} {student}" for i, student in enumerate(students)]
    shapes.append(f"{SHAPES[TEACHER]} teacher")
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
