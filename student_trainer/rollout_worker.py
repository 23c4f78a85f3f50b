"""A rollout worker: chooses prefixes, lets the student write, has the teacher score."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seq2seq.data import TokenizedSplit
from seq2seq.decoding import Greedy, Sample
from seq2seq.errors import UserError
from seq2seq.noise import keyed, uniform_array
from seq2seq.plan import BatchPlan
from student_trainer.confidence import without_doubtful
from student_trainer.config import RunConfig
from student_trainer.labels import asked_payload, join_labels, labels_of
from student_trainer.mixing import is_fresh, keeps_reference
from student_trainer.teachers import RoutedTeachers
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
from teacher_service.codec import ScoreResult
from teacher_service.errors import TeacherError

_SEGMENTS = 0x73656773


@dataclass(frozen=True)
class Draft:
    """A shard between its two stages: written, not yet scored.

    Attributes:
        digest: of the numbers of the rows the plan gives this shard.
        rows: int64 ``[B]``, those among them that are not left to the learner.
        sources, targets: int32 ids of each row.
        from_student: bool ``[B]``, rows whose target the student wrote.
        asked: bool ``[B]``, rows whose loss needs the teacher.
        candidates: per row asked, int32 ids [T, K] the teacher is asked about; None: not by name.
        replayed: rows left to the learner, which draws them from those written before.
        generate_s: seconds it took.
    """

    task: ShardTask
    digest: str
    rows: np.ndarray
    sources: list[np.ndarray]
    targets: list[np.ndarray]
    from_student: np.ndarray
    asked: np.ndarray
    candidates: list[np.ndarray] | None
    replayed: int
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
        teacher: Teacher | RoutedTeachers | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Wire a worker.

        Args:
            writer: the student; None where the method needs none.
            teacher: one for all rows or for each corpus; None where the method asks none.
        """
        self._config, self._split, self._plan = config, split, plan
        self._writer, self._teacher, self._clock = writer, teacher, clock
        self.version: int | None = None
        self.fit = split.fit

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
        if self._config.workers_need_student and self.version != task.version:
            raise ValueError(f"shard needs version {task.version}, the worker holds {self.version}")
        config = self._config
        rows = planned = self._plan.rows(task.batch)[task.shard :: config.batch.shards]
        from_student = np.zeros(len(rows), dtype=bool)
        replayed = 0
        if config.student_writes:
            from_student = ~keeps_reference(config.seed, task.batch, rows, task.beta)
        if config.spec.pool == "replay":
            left_out = from_student & ~is_fresh(config, task.batch, rows)
            rows, from_student = rows[~left_out], from_student[~left_out]
            replayed = int(left_out.sum())
        u = uniform_array(config.seed ^ _SEGMENTS, task.batch, rows)
        sources = [self._split.source(r, x).astype(np.int32) for r, x in zip(rows, u, strict=True)]
        targets = [self._split.target(r).astype(np.int32) for r in rows]
        begin = self._clock()
        if config.student_writes:
            self._write(task, rows, sources, targets, from_student)
        asked = self._asked(from_student)
        candidates = self._candidates(sources, targets, asked)
        seconds = self._clock() - begin
        digest = rows_digest(planned)
        return Draft(
            task, digest, rows, sources, targets, from_student, asked, candidates, replayed, seconds
        )

    def _scored(self, draft: Draft) -> ScoredShard:
        begin = self._clock()
        answers = self._ask(draft)
        labels = None
        if answers:
            labels = join_labels([_labels(draft, mask, result) for mask, result in answers])
        task, config = draft.task, self._config
        revisions = tuple(sorted({result.revision for _, result in answers}))
        shard = ScoredShard(
            batch=task.batch,
            shard=task.shard,
            version=task.version,
            beta=task.beta,
            sources=Ragged.of(draft.sources),
            targets=Ragged.of(draft.targets),
            from_student=draft.from_student,
            labels=labels,
            scored_sentences=int(draft.asked.sum()),
            generate_s=draft.generate_s,
            score_s=self._clock() - begin,
            replayed=draft.replayed,
            teacher_s=sum(result.compute_seconds for _, result in answers),
            digest=draft.digest,
            revision=revisions if len(revisions) > 1 else next(iter(revisions), None),
        )
        if config.spec.pool == "aggregation":
            data = [self._split.target(r).astype(np.int32) for r in draft.rows]
            return without_doubtful(shard, data, config.pool.confidence)
        return shard

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
        config = self._config
        if not config.asks_teacher:
            return np.zeros_like(from_student)
        if config.compared_by == "policy-gradient":
            return from_student
        if config.compared_by == "argmax" and not config.loss.teacher_labels_on_data_rows:
            return from_student
        return np.ones_like(from_student)

    def _candidates(
        self, sources: list[np.ndarray], targets: list[np.ndarray], asked: np.ndarray
    ) -> list[np.ndarray] | None:
        """The likeliest ids to the student along the chosen rows, where the loss asks so."""
        if self._config.payload != "candidates" or not asked.any():
            return None
        assert self._writer is not None
        k = self._config.loss.top_k
        return self._writer.candidates(_where(asked, sources), _where(asked, targets), k)

    def _ask(self, draft: Draft) -> list[tuple[np.ndarray, ScoreResult]]:
        """Have the chosen rows scored: for each teacher asked the rows (a mask) and its answer."""
        if not draft.asked.any():
            return []

        def ask(teacher: Teacher, mask: np.ndarray) -> ScoreResult:
            candidates = _candidates_of(draft, mask)
            named = {} if candidates is None else {"candidates": candidates}
            return teacher.score(
                _where(mask, draft.sources),
                _where(mask, draft.targets),
                asked_payload(self._config),
                temperature=self._config.loss.temperature,
                **named,
            )

        if isinstance(self._teacher, RoutedTeachers):
            corpora = self._split.corpus_of(draft.rows)
            return self._teacher.ask_each(draft.asked, corpora, ask)
        assert self._teacher is not None
        return [(draft.asked, ask(self._teacher, draft.asked))]


def _labels(draft: Draft, mask: np.ndarray, result: ScoreResult) -> TeacherLabels:
    """What a teacher said about the rows of a mask."""
    lengths = np.array([len(t) for t in draft.targets])
    candidates = _candidates_of(draft, mask)
    named = None if candidates is None else np.concatenate(candidates)
    return labels_of(np.repeat(mask, lengths).nonzero()[0], result, named)


def _candidates_of(draft: Draft, mask: np.ndarray) -> list[np.ndarray] | None:
    """The candidates of the rows of a mask, which are among those asked about."""
    return None if draft.candidates is None else _where(mask[draft.asked], draft.candidates)


def _where(asked: np.ndarray, rows: list[np.ndarray]) -> list[np.ndarray]:
    return [row for row, is_asked in zip(rows, asked, strict=True) if is_asked]


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
