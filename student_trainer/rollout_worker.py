"""A rollout worker: chooses prefixes, lets the student write, has the teacher score."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seq2seq.data import BatchPlan, TokenizedSplit
from seq2seq.decoding import Greedy, Sample
from seq2seq.errors import UserError
from seq2seq.noise import keyed, uniform_array
from student_trainer.config import RunConfig
from student_trainer.mixing import keeps_reference
from student_trainer.types import (
    Ragged,
    ScoredShard,
    ShardTask,
    Teacher,
    TeacherLabels,
    Weights,
    rows_digest,
)
from student_trainer.writers import Writer
from teacher_service.codec import Argmax, ArgmaxSpec, PayloadRequest, ScoreResult, TopK, TopKSpec
from teacher_service.errors import TeacherError

_SEGMENTS = 0x73656773


@dataclass(frozen=True)
class Draft:
    """A shard between its two stages: written, not yet scored.

    Attributes:
        rows: int64 ``[B]``, numbers of the training rows.
        sources, targets: int32 ids of each row.
        from_student: bool ``[B]``, rows whose target the student wrote.
        generate_s: seconds it took.
    """

    task: ShardTask
    rows: np.ndarray
    sources: list[np.ndarray]
    targets: list[np.ndarray]
    from_student: np.ndarray
    generate_s: float


class RolloutWorker:
    """Turns a :class:`ShardTask` into a :class:`ScoredShard`.

    The result is a function of the task and the weights of its version: rows, coin flips and
    sampling noise are addressed by (seed, batch, row, position), so a lost shard is run again
    elsewhere with the same outcome.
    """

    def __init__(
        self,
        config: RunConfig,
        split: TokenizedSplit,
        plan: BatchPlan,
        writer: Writer | None = None,
        teacher: Teacher | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Wire a worker.

        Args:
            writer: the student; None where the method lets nobody write.
            teacher: None under ``vanilla``.
        """
        self._config, self._split, self._plan = config, split, plan
        self._writer, self._teacher, self._clock = writer, teacher, clock
        self.version: int | None = None
        self.left_out = split.dropped

    def load(self, version: int, weights: Weights) -> None:
        """Write with these weights from now on."""
        if self._writer is not None and version != self.version:
            self._writer.load(weights)
        self.version = version

    @property
    def plan(self) -> str:
        """Digest of the batches this worker knows."""
        return self._plan.digest

    def run(self, task: ShardTask) -> ScoredShard:
        """Choose, write, score. Raises as :meth:`write` and :meth:`score` do."""
        return self.score(self.write(task))

    def write(self, task: ShardTask) -> Draft:
        """Choose rows and prefixes and have the student write; one call at a time.

        Raises:
            ValueError: the weights loaded are not of the version the task names.
        """
        with _naming(task):
            return self._draft(task)

    def score(self, draft: Draft) -> ScoredShard:
        """Have the teacher score what was written; may run beside a :meth:`write`.

        Raises:
            TeacherError: the teacher refused or stayed away past the deadline; named is the shard.
        """
        with _naming(draft.task):
            return self._scored(draft)

    def _draft(self, task: ShardTask) -> Draft:
        if self._config.student_writes and self.version != task.version:
            raise ValueError(f"shard needs version {task.version}, the worker holds {self.version}")
        config = self._config
        rows = self._plan.rows(task.batch)[task.shard :: config.batch.shards]
        u = uniform_array(config.seed ^ _SEGMENTS, task.batch, rows)
        sources = [self._split.source(r, x).astype(np.int32) for r, x in zip(rows, u, strict=True)]
        targets = [self._split.target(r).astype(np.int32) for r in rows]
        begin = self._clock()
        from_student = np.zeros(len(rows), dtype=bool)
        if config.student_writes:
            from_student = ~keeps_reference(config.seed, task.batch, rows, task.beta)
            self._write(task, rows, sources, targets, from_student)
        seconds = self._clock() - begin
        return Draft(task, rows, sources, targets, from_student, seconds)

    def _scored(self, draft: Draft) -> ScoredShard:
        begin = self._clock()
        asked = self._asked(draft.from_student)
        result = self._ask(draft, asked)
        labels = None
        if result is not None:
            lengths = np.array([len(t) for t in draft.targets])
            labels = _labels(np.repeat(asked, lengths).nonzero()[0], result.payload)
        task = draft.task
        return ScoredShard(
            batch=task.batch,
            shard=task.shard,
            version=task.version,
            beta=task.beta,
            sources=Ragged.of(draft.sources),
            targets=Ragged.of(draft.targets),
            from_student=draft.from_student,
            labels=labels,
            scored_sentences=int(asked.sum()),
            generate_s=draft.generate_s,
            score_s=self._clock() - begin,
            teacher_s=result.compute_seconds if result is not None else 0.0,
            digest=rows_digest(draft.rows),
            revision=result.revision if result is not None else None,
        )

    def _write(
        self,
        task: ShardTask,
        rows: np.ndarray,
        sources: list[np.ndarray],
        targets: list[np.ndarray],
        from_student: np.ndarray,
    ) -> None:
        """Replace the targets of the chosen rows by the student's own."""
        assert self._writer is not None
        settings = self._config.rollout
        mode: Greedy | Sample = Greedy()
        if settings.decoding == "sample":
            seed = int(keyed(self._config.seed, task.batch) >> np.uint64(1))
            mode = Sample(settings.top_k, settings.temperature, seed)
        chosen = from_student.nonzero()[0]
        if not len(chosen):
            return
        written = self._writer.write(
            [sources[i] for i in chosen], mode, [int(rows[i]) for i in chosen]
        )
        for i, ids in zip(chosen, written, strict=True):
            targets[i] = np.array(ids, dtype=np.int32)

    def _asked(self, from_student: np.ndarray) -> np.ndarray:
        """bool ``[B]``: the rows whose loss needs the teacher."""
        if self._config.method == "vanilla":
            return np.zeros_like(from_student)
        own_labels = self._config.method == "imitkd"
        if own_labels and not self._config.loss.teacher_labels_on_data_rows:
            return from_student
        return np.ones_like(from_student)

    def _ask(self, draft: Draft, asked: np.ndarray) -> ScoreResult | None:
        """Have the chosen rows scored by the teacher."""
        if not asked.any():
            return None
        assert self._teacher is not None
        return self._teacher.score(
            [s for s, a in zip(draft.sources, asked, strict=True) if a],
            [t for t, a in zip(draft.targets, asked, strict=True) if a],
            asked_payload(self._config),
            temperature=self._config.loss.temperature,
        )


@contextlib.contextmanager
def _naming(task: ShardTask) -> Iterator[None]:
    """Faults inside the block name their shard."""
    try:
        yield
    except (TeacherError, UserError) as error:
        error.args = (f"{task}: {error}",)
        raise
    except Exception as error:
        error.add_note(f"while running {task}")
        raise


def asked_payload(config: RunConfig) -> PayloadRequest:
    """What the teacher is asked for about each position."""
    return ArgmaxSpec() if config.method == "imitkd" else TopKSpec(config.loss.top_k)


def _labels(positions: np.ndarray, payload: object) -> TeacherLabels:
    if isinstance(payload, TopK):
        ids, log_probs = payload.ids_PK, payload.log_probs_PK
        tail = payload.tail_log_mass_P
    elif isinstance(payload, Argmax):
        ids, log_probs = payload.ids_P[:, None], payload.log_probs_P[:, None]
        tail = np.log1p(-np.exp(np.minimum(payload.log_probs_P, -1e-7)))
    else:
        raise TypeError(f"no labels can be made of {type(payload).__name__}")
    if len(positions) != len(ids):
        raise ValueError(
            f"the teacher scored {len(ids)} positions, {len(positions)} were asked for"
        )
    return TeacherLabels(
        positions.astype(np.int64),
        ids.astype(np.int32),
        log_probs.astype(np.float32),
        tail.astype(np.float32),
    )
