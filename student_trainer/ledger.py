"""The ledger of a run: what was learnt, batch by batch, in the order it was learnt.

``ledger.jsonl`` is only ever appended to. A process that begins or goes on writes a ``begin``
record; the batches from its ``step`` on that stand above it were learnt after the checkpoint it
went on from: they are rolled back, and stay as what happened. Then comes one ``batch`` record for
every step. It is written before the checkpoint that holds the step, and synced to disk then;
between checkpoints the operating system writes it when it likes, since a step that no checkpoint
holds is run again anyway. A ``death`` record names the shards that a worker held when it died, so
that which ones are under suspicion outlives the driver.

:mod:`student_trainer.ledger_check` checks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from student_trainer.run_directory import RunDirectory
from student_trainer.source_config import TeacherRevision
from student_trainer.types import LearntShard, ShardTask, StepReport, ValidationReport


@dataclass(frozen=True)
class Beginning:
    """What a process that learns goes by.

    Attributes:
        token: of the run's lock: grows with every process.
        step: steps done when it began; batches from this one on are its own.
        plan: digest of which rows make up which batch (``BatchPlan.digest``).
        pool, lag: the rule of staleness.
        shards: of a batch.
        teacher: revision that scores, by corpus where there are routes; None where no teacher is
            asked.
    """

    token: int
    step: int
    plan: str
    pool: int
    lag: int
    shards: int
    teacher: TeacherRevision


class Ledger:
    """Writes the ledger of a run; an observer of the driver."""

    def __init__(self, run: RunDirectory, beginning: Beginning) -> None:
        """Begin, or go on; a last line torn by a crash is dropped.

        Raises:
            UserError: the disk is full, or the ledger is damaged.
        """
        self._run, self._lines = run, run.ledger
        self._lines.cut(lambda _: True)
        self._lines.append({"kind": "begin"} | asdict(beginning))

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """One line: for each shard its rows, their digest, and how often it was handed out; on a
        cluster also who wrote it."""
        record: dict[str, Any] = {
            "kind": "batch",
            "batch": report.step - 1,
            "version": report.version,
            "teacher": sorted(set(chain.from_iterable(map(_revisions, report.shards)))),
            "shards": [[s.rows, s.digest, s.attempts] for s in report.shards],
        }
        if any(s.host for s in report.shards):
            record["hosts"] = [s.host for s in report.shards]
        left_out = [j for j, s in enumerate(report.shards) if s.quarantined]
        if left_out:
            record["quarantined"] = left_out
        self._run.check_fence()
        self._lines.append(record)

    def on_validation(self, report: ValidationReport) -> None:
        """Nothing is learnt from it."""

    def sync(self) -> None:
        """To be called before a checkpoint is written.

        Raises:
            UserError: the disk is full or failing.
        """
        self._lines.sync()

    def close(self) -> None:
        """Nothing is held open."""


def _revisions(shard: LearntShard) -> tuple[str, ...]:
    """Of the teachers that were asked about a shard."""
    if isinstance(shard.revision, str):
        return (shard.revision,)
    return shard.revision or ()


def note_death(run: RunDirectory, shards: Iterable[ShardTask]) -> None:
    """One line: these shards a worker held when it died.

    Raises:
        UserError: the disk is full, or another process took the run over.
    """
    run.check_fence()
    run.ledger.append({"kind": "death", "shards": [[t.batch, t.shard] for t in shards]})


@dataclass(frozen=True)
class Toll:
    """What earlier processes of a run saw of shards that kill workers.

    Attributes:
        deaths: by (batch, shard): workers that died with it, of batches not learnt since.
        left_out: shards quarantined in what the checkpoint builds on.
    """

    deaths: dict[tuple[int, int], int]
    left_out: int


def read_toll(run: RunDirectory, start: int) -> Toll:
    """The toll where a run goes on after ``start`` steps.

    Raises:
        UserError: the ledger is damaged.
    """
    deaths: Counter[tuple[int, int]] = Counter()
    left_out: dict[int, list[int]] = {}
    for record in run.ledger.read():
        if record["kind"] == "death":
            deaths.update((batch, shard) for batch, shard in record["shards"])
        elif record["kind"] == "batch":
            batch = record["batch"]
            # What was rolled back was learnt anew: the last account of a batch counts.
            left_out[batch] = record.get("quarantined", [])
            for shard in set(range(len(record["shards"]))) - set(left_out[batch]):
                deaths.pop((batch, shard), None)
    kept = sum(len(shards) for batch, shards in left_out.items() if batch < start)
    return Toll(dict(deaths), kept)
