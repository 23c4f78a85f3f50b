"""Which settings make the cells of a study comparable, and in which a run or a cell differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from student_trainer.config import RunConfig

# What no variant may change.
CONDITIONS = (
    "name", "method", "seed", "optimiser.steps", "batch", "model", "vocabulary", "validation",
    "teacher", "corpus.sentences",
)  # fmt: skip
# But for the student's regularisation, which a method is tuned with.
TUNED = ("model.dropout",)
# How a run is carried out; what it comes to is the same.
_HOW = (
    "runtime", "workers", "workers_at_start", "room_timeout_s", "worker_threads", "learner_threads",
    "checkpoint_every", "metrics_address", "teacher", "initialise",
)  # fmt: skip


def changed_conditions(shared: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Conditions in which a variant's settings differ from those that all variants share."""
    return [key for key in _differing(shared, own) if _under(key, CONDITIONS) and key not in TUNED]


def changed_settings(recorded: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Settings in which a finished or begun run differs from what the study would run now.

    A setting that one of the two does not know does not count, nor how the run is carried out.

    Args:
        recorded: a configuration as plain values.
    """
    now = config.model_dump(mode="json", by_alias=True)
    known = dict(_leaves(recorded)).keys() & dict(_leaves(now)).keys()
    return [key for key in _differing(recorded, now) if key in known and not _under(key, _HOW)]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    first, second = dict(_leaves(one)), dict(_leaves(other))
    return [key for key in first | second if first.get(key) != second.get(key)]


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; of the directory of teacher-written text, its name.

    Where a study keeps its runs makes no difference.
    """
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            path = f"{prefix}{key}" == "corpus.distilled" and value is not None
            yield f"{prefix}{key}", Path(value).name if path else value


def _under(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in sections)
