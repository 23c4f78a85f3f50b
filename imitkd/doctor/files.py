"""Where the run will be written: free, writable, and large enough."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, error, ok, warning
from student_trainer.config import RunConfig
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import student_bytes
from student_trainer.targets import training_files

# A line of metrics.jsonl and its scalars in TensorBoard's file.
STEP_BYTES = 1500


def place(it: Examination) -> list[Finding]:
    """The run directory can be made, and holds no run yet."""
    parent = _existing(it.output)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [error(f"{parent} cannot be written to", "choose another --output")]
    if RunDirectory(it.output).config_file.exists():
        return [
            warning(
                f"{it.output} holds a run", "continue it with --resume, or choose another --output"
            )
        ]
    return [ok(f"{it.output} is free")]


def space(it: Examination) -> list[Finding]:
    """The disk has room for checkpoints, students and metrics."""
    it.need("vocabulary")
    needed = run_bytes(it.config, student_bytes(it.config, it.vocabulary)) + _ids_bytes(it.config)
    free = shutil.disk_usage(_existing(it.output)).free
    told = f"about {_size(needed)} are needed, {_size(free)} are free"
    facts = {"needed_bytes": needed, "free_bytes": free}
    if free < needed:
        return [error(told, "free disk space, or choose another --output", **facts)]
    if free < 2 * needed:
        return [warning(told, "free some: a full disk stops the run", **facts)]
    return [ok(told, **facts)]


def run_bytes(config: RunConfig, weights: int) -> int:
    """Largest size of a run directory.

    Args:
        weights: bytes of one version of the student.
    """
    # Held by the learner whether or not workers need them.
    versions = 1 + -(-config.rollout.lag // config.rollout.pool)
    # Weights, two moments of AdamW, the average, and the versions that batches to come need.
    checkpoint = weights * (3 + bool(config.optimiser.average) + versions)
    # Two are kept while a third is written; students are fp16: first, best, and the next best.
    return 3 * checkpoint + 3 * weights // 2 + STEP_BYTES * config.optimiser.steps


def _ids_bytes(config: RunConfig) -> int:
    """At most what the training split takes as ids: their offsets as much as its text, and each
    candidate's ids too."""
    try:
        size = sum(path.stat().st_size for path in training_files(config))
    except OSError:  # another check tells
        return 0
    return size * (1 + config.corpus.source_candidates)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count //= 1000
    return f"{count:,} TB"
