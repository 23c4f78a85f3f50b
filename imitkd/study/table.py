"""The table of a study, in Markdown, from its results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def _number(key: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else f"{row[key]:,.{digits}f}"


def p_text(value: float) -> str:
    """A p-value, wherever one is shown; that of a thousand resamples at the least is 0.001."""
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def _p_value(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else p_text(row[key])


def _interval(row: Row) -> str:
    return f"{row['ci_low']:.2f} .. {row['ci_high']:.2f}"


_COLUMNS: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("student", lambda row: row["student"] or ""),
    ("method", lambda row: row["method"]),
    ("seeds", lambda row: ", ".join(map(str, row["seed"]))),
    ("BLEU greedy", _number("bleu_greedy", 2)),
    ("95 %", _interval),
    ("BLEU beam", _number("bleu_beam5", 2)),
    ("chrF", _number("chrf", 2)),
    ("p vs vanilla", _p_value("p_vs_vanilla")),
    ("p vs seqkd", _p_value("p_vs_seqkd")),
    ("parameters", _number("parameters", 0)),
    ("sentences/s", _number("greedy_sentences_per_s", 1)),
    ("training s", _number("train_seconds", 0)),
)


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose columns stand below each other, rendered or not."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    cells = [heads, ["-" * width for width in widths], *rows]
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]


def markdown(results: dict[str, Any]) -> str:
    """One table for each test split, means over seeds; then what the numbers rest on."""
    metric = results["metric"]
    columns = list(_COLUMNS)
    if metric != "bleu":
        kinds = ("1", "2", "L")
        columns[3:3] = [
            (f"ROUGE-{kind} {how}".rstrip(), _number(f"rouge{kind}{key}", 2))
            for how, key in (("", ""), ("beam", "_beam5"))
            for kind in kinds
        ]
    lines = [f"# {results['study']}", ""]
    for test, sentences in results["tests"].items():
        rows = [row for row in results["means"] if row["test"] == test]
        lines += [f"## {test}, {sentences:,} sentences", ""]
        lines += _aligned(
            [name for name, _ in columns], [[c(row) for _, c in columns] for row in rows]
        )
        lines += [""]
    bootstrap = results["bootstrap"]
    lines += [
        f"Means over seeds. Intervals and p-values: {metric} of the greedy texts, paired bootstrap "
        f"over sentences, {bootstrap['resamples']:,} resamples, seed {bootstrap['seed']}. Beam "
        f"{results['beam']}; speeds on {results['threads']} CPU thread(s).",
        "",
        *(f"- {name}: `{signature}`" for name, signature in results["signatures"].items()),
        "",
    ]
    return "\n".join(lines)
