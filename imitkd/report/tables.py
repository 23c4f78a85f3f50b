"""The tables of a page: rows of a study, and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imitkd.report.figures import study_metric
from imitkd.report.reading import Record, Run, Study
from imitkd.report.trainings import run_labels
from imitkd.study.table import p_text


@dataclass(frozen=True)
class Table:
    """Plain cells; all but the first ``words`` columns are numbers.

    Attributes:
        folded: shown when it is asked for.
        best: places ``(row, column)`` of the best number of each student in a column.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    words: int
    note: str = ""
    folded: bool = False
    best: frozenset[tuple[int, int]] = frozenset()


_Column = tuple[str, str, Callable[[Any], str]]


def _fixed(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{digits}f}"


def _difference(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


_STUDY: list[_Column] = [
    ("method", "method", str),
    ("student", "student", str),
    ("seed", "seed", str),
    ("BLEU greedy", "bleu_greedy", _fixed(2)),
    ("BLEU beam 5", "bleu_beam5", _fixed(2)),
    ("chrF", "chrf", _fixed(2)),
    ("ROUGE-1", "rouge1", _fixed(2)),
    ("ROUGE-2", "rouge2", _fixed(2)),
    ("ROUGE-L", "rougeL", _fixed(2)),
    ("ROUGE-1 beam 5", "rouge1_beam5", _fixed(2)),
    ("ROUGE-2 beam 5", "rouge2_beam5", _fixed(2)),
    ("ROUGE-L beam 5", "rougeL_beam5", _fixed(2)),
    ("Δ vs vanilla", "delta_vs_vanilla", _difference),
    ("p vs vanilla", "p_vs_vanilla", p_text),
    ("Δ vs SeqKD", "delta_vs_seqkd", _difference),
    ("p vs SeqKD", "p_vs_seqkd", p_text),
    ("% of teacher", "percent_of_teacher", _fixed(1)),
    ("parameters", "parameters", _fixed(0)),
    ("sentences/s", "greedy_sentences_per_s", _fixed(1)),
    ("training s", "train_seconds", _fixed(0)),
]
_NOTE = (
    "Bold: the best of a student. Δ: difference to the baseline of the same student, or to the one "
    "that a variant has of its own. Intervals and p-values by bootstrap over sentences."
)
_SHARE_NOTE = " % of teacher: a student's greedy score, of the teacher's with a beam."
_BEST = {"bleu_greedy", "bleu_beam5", "chrf"} | {
    f"{kind}{how}" for kind in ("rouge1", "rouge2", "rougeL") for how in ("", "_beam5")
}


def study_tables(study: Study, test: str) -> list[Table]:
    """Means over seeds where the results have them, then every row, of one test split."""
    title = f"{study.name}: {test}"
    rows, means = (
        _with_share(study, [row for row in some if row["test"] == test])
        for some in (study.rows, study.results.get("means", []))
    )
    if not means or len(means) == len(rows):
        return [_of_rows(study, rows, title)]
    return [
        _of_rows(study, means, f"{title}, means over seeds"),
        replace(_of_rows(study, rows, f"{title}, each seed"), folded=True),
    ]


def _with_share(study: Study, rows: Sequence[Record]) -> list[Record]:
    """Students by themselves, and what each has, greedily, of its teacher's score with a beam."""
    metric = study.results.get("metric", "bleu")
    greedy, beam = f"{metric}_greedy" if metric == "bleu" else metric, f"{metric}_beam5"
    teacher = next((row.get(beam) for row in rows if not row["student"]), None)
    students = list(dict.fromkeys(row["student"] for row in rows))
    return [
        row | {"percent_of_teacher": 100 * row[greedy] / teacher}
        if teacher and row["student"]
        else row
        for row in sorted(rows, key=lambda row: students.index(row["student"]))
    ]


def _of_rows(study: Study, rows: Sequence[Record], title: str) -> Table:
    """Columns that no row has are left out."""
    columns = [c for c in _STUDY if c[0] == "method" or any(r.get(c[1]) is not None for r in rows)]
    cells = [[_shown(row, key, form) for _, key, form in columns] for row in rows]
    names = [name for name, _, _ in columns]
    if any(row.get("ci_low") is not None for row in rows):
        place = names.index("BLEU greedy") + 1
        names.insert(place, f"95 % ({study_metric(study)})")
        for row, shown in zip(rows, cells, strict=True):
            shown.insert(place, _interval(row))
    words = sum(key in ("method", "student", "seed") for _, key, _ in columns)
    note = _NOTE + _SHARE_NOTE * ("% of teacher" in names)
    return Table(title, names, cells, words, note, best=_best(rows, columns, names))


def _shown(row: Record, key: str, form: Callable[[Any], str]) -> str:
    value = row.get(key)
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else form(value)


def _interval(row: Record) -> str:
    low, high = row.get("ci_low"), row.get("ci_high")
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f}"


def _best(
    rows: Sequence[Record], columns: Sequence[_Column], names: Sequence[str]
) -> frozenset[tuple[int, int]]:
    """Among the methods of one student: students of other sizes are not to be compared."""
    found = set()
    for student in {row["student"] for row in rows if row["student"]}:
        methods = [i for i, row in enumerate(rows) if row["student"] == student]
        for name, key, _ in columns:
            scored = [i for i in methods if rows[i].get(key) is not None]
            if key in _BEST and len(scored) > 1:
                found.add((max(scored, key=lambda i: rows[i][key]), names.index(name)))
    return frozenset(found)


_RUN: list[_Column] = [
    ("steps", "batches", _fixed(0)),
    ("best at", "best_step", _fixed(0)),
    ("BLEU", "validation_bleu", _fixed(2)),
    ("chrF", "validation_chrf", _fixed(2)),
    ("ROUGE-1", "validation_rouge1", _fixed(2)),
    ("ROUGE-2", "validation_rouge2", _fixed(2)),
    ("ROUGE-L", "validation_rougeL", _fixed(2)),
    ("loss", "validation_loss", _fixed(3)),
    ("sentences scored", "sentences_scored", _fixed(0)),
    ("left out", "sentences_left_out", _fixed(0)),
    ("sources cut", "sources_cut", _fixed(0)),
    ("training s", "train_seconds", _fixed(0)),
]


def run_table(runs: Sequence[Run]) -> Table:
    """Runs and what their summaries say; one that is not finished has no numbers."""
    summaries = [_training(run) for run in runs]
    columns = [c for c in _RUN if any(s.get(c[1]) for s in summaries)]
    cells = [
        [label, str(run.config["method"]), *(_shown(s, key, form) for _, key, form in columns)]
        for label, run, s in zip(run_labels(runs), runs, summaries, strict=True)
    ]
    note = "Scores on validation, greedy, of the best student."
    if not all(summaries):
        note += " A run without numbers is not finished."
    return Table("Runs", ["run", "method", *(name for name, _, _ in columns)], cells, 2, note)


def _training(run: Run) -> Record:
    """The demo keeps the trainer's summary inside its own."""
    inner = run.summary.get("training")
    return inner if isinstance(inner, dict) else run.summary


def evaluation_table(runs: Sequence[Run]) -> Table | None:
    """Evaluations that lie in run directories; None where there are none."""
    columns: list[_Column] = [
        ("BLEU", "bleu", _fixed(2)),
        ("chrF", "chrf", _fixed(2)),
        ("ROUGE-1", "rouge1", _fixed(2)),
        ("ROUGE-2", "rouge2", _fixed(2)),
        ("ROUGE-L", "rougeL", _fixed(2)),
        ("sentences/s", "sentences_per_s", _fixed(1)),
        ("parameters", "parameters", _fixed(0)),
        ("MB", "megabytes", _fixed(1)),
    ]
    found = [
        (label, name, e)
        for label, run in zip(run_labels(runs), runs, strict=True)
        for name, e in run.evaluations.items()
    ]
    if not found:
        return None
    columns = [c for c in columns if any(e.get(c[1]) is not None for _, _, e in found)]
    cells = [
        [label, name.replace("_", " "), *(_shown(e, key, form) for _, key, form in columns)]
        for label, name, e in found
    ]
    names = ["run", "evaluation", *(name for name, _, _ in columns)]
    return Table("Evaluations", names, cells, 2, "As `imitkd evaluate --json` wrote them.")
