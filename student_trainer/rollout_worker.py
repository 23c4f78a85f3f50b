"""A rollout worker: chooses prefixes, lets the student write, has the teacher score."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from seq2seq.data import BatchPlan, TokenizedSplit
from seq2seq.decoding import Greedy, Sample
from seq2seq.errors import UserError
from seq2seq.noise import keyed, uniform_array
from student_trainer.confidence import without_doubtful
from student_trainer.config import RunConfig
from student_trainer.labels import asked_payload, labels_of
from student_trainer.mixing import is_fresh, keeps_reference
from student_trainer.types import Ragged, ScoredShard, ShardTask, Teacher, TeacherLabels, Weights
from student_trainer.writers import Writer
from teacher_service.errors import TeacherError

_SEGMENTS = 0x73656773


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
            writer: the student; None where the method needs none.
            teacher: None where the method asks none.
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

    def run(self, task: ShardTask) -> ScoredShard:
        """Choose, write, score.

        Raises:
            ValueError: the weights loaded are not of the version the task names.
            TeacherError: the teacher refused or stayed away past the deadline; named is the shard.
        """
        try:
            return self._run(task)
        except (TeacherError, UserError) as error:
            error.args = (f"{task}: {error}",)
            raise
        except Exception as error:
            error.add_note(f"while running {task}")
            raise

    def _run(self, task: ShardTask) -> ScoredShard:
        if self._config.workers_need_student and self.version != task.version:
            raise ValueError(f"shard needs version {task.version}, the worker holds {self.version}")
        config = self._config
        rows = self._plan.rows(task.batch)[task.shard :: config.batch.shards]
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
        written = self._clock()
        asked = self._asked(from_student)
        labels = self._score(sources, targets, asked)
        shard = ScoredShard(
            batch=task.batch,
            shard=task.shard,
            version=task.version,
            beta=task.beta,
            sources=Ragged.of(sources),
            targets=Ragged.of(targets),
            from_student=from_student,
            labels=labels,
            scored_sentences=int(asked.sum()),
            generate_s=written - begin,
            score_s=self._clock() - written,
            replayed=replayed,
        )
        if config.spec.pool == "aggregation":
            data = [self._split.target(r).astype(np.int32) for r in rows]
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

    def _score(
        self, sources: list[np.ndarray], targets: list[np.ndarray], asked: np.ndarray
    ) -> TeacherLabels | None:
        """Have the chosen rows scored by the teacher."""
        if not asked.any():
            return None
        assert self._teacher is not None
        chosen = [s for s, a in zip(sources, asked, strict=True) if a]
        written = [t for t, a in zip(targets, asked, strict=True) if a]
        tables: dict[str, Any] = {}
        if self._config.payload == "candidates":
            assert self._writer is not None
            tables["candidates"] = self._writer.candidates(chosen, written, self._config.loss.top_k)
        result = self._teacher.score(
            chosen,
            written,
            asked_payload(self._config),
            temperature=self._config.loss.temperature,
            **tables,
        )
        lengths = np.array([len(t) for t in targets])
        positions = np.repeat(asked, lengths).nonzero()[0]
        named = np.concatenate(tables["candidates"]) if tables else None
        return labels_of(positions, result, named)
