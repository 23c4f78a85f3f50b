"""What was run: configurations and facts, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from imitkd.report.reading import Cell, Record, Run, Study

Titled = tuple[str, str]

# Of a cell's configuration what its name says, or what no longer means anything.
_LEFT_OUT = {"config.name", "config.seed", "config.teacher.address"}


def of_run(run: Run) -> Titled:
    """Its configuration as it lies there, and its summary."""
    summary = _as_json(run.summary) if run.summary else "unfinished"
    return f"{run.name} ({run.path})", f"{run.config_text.rstrip()}\n\nsummary: {summary}"


def of_study(study: Study) -> list[Titled]:
    """What its numbers rest on; its teacher; of its cells what they share and what they do not."""
    rest = {k: v for k, v in study.results.items() if k not in ("rows", "means")}
    found = [(f"{study.name} ({study.path})", _as_json(rest))]
    teachers = [cell for cell in study.cells if not cell.student and cell.details]
    found += [(f"{study.name}: {cell.name}", _lines(_flat(cell.details))) for cell in teachers]
    cells = [cell for cell in study.cells if cell.student and cell.details]
    if cells:
        found.append((f"{study.name}: trainings", _trainings(cells)))
    return found


def _trainings(cells: list[Cell]) -> str:
    facts = [
        {key: text for key, text in _flat(cell.details).items() if key not in _LEFT_OUT}
        for cell in cells
    ]
    first, *others = facts
    shared = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
    parts = [f"all of them\n\n{_lines(shared)}"]
    for cell, own in zip(cells, facts, strict=True):
        rest = {key: text for key, text in own.items() if key not in shared}
        if rest:
            parts.append(f"{cell.name}\n\n{_lines(rest)}")
    return "\n\n".join(parts)


def _flat(record: Record) -> dict[str, str]:
    return dict(_leaves("", record))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """``a.b`` and what is there, as in the overrides of a study."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, inner)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield prefix, text


def _lines(facts: dict[str, str]) -> str:
    return "\n".join(f"  {key}: {text}" for key, text in facts.items())


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
