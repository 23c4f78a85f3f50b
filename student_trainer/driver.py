"""The loop that feeds workers and learner.

::

    driver --ShardTask(i, j, version v(i), beta)--> workers --ScoredShard--> learner
      ^                                                                       |
      +------------- StepReport, published versions --------------------------+

The driver submits every batch whose weights v(i) = max(0, M * floor(i / M) - lag) already exist,
hands batch i to the learner, and batch i + 1 too where its shards are there already, so that the
learner never waits for the driver; waits for the report of batch i, and so on. Where a later batch
will need the weights after a step, they are published between that step and the next. What may run
ahead is bounded by M + lag batches; what is computed does not depend on timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.executor import Executor
from student_trainer.mixing import beta, version_for
from student_trainer.types import ShardTask, StepReport, ValidationReport
from teacher_service.errors import TeacherError


class Observer(Protocol):
    """Is told what happens: progress bar, metrics files."""

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """A step ended; ``wall_s`` passed since the step before it."""

    def on_validation(self, report: ValidationReport) -> None:
        """The student was evaluated."""


@dataclass(frozen=True)
class Spent:
    """Wall seconds of the steps behind a checkpoint: in the loop, and of these in validation."""

    train_s: float = 0.0
    validation_s: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        train_s: wall seconds in the loop, validation included, of all processes that made what
            the run holds now.
        validation_s: of these, spent in validation.
        stopped_early: patience ran out before the last step.
    """

    steps: int
    train_s: float
    validation_s: float
    stopped_early: bool
    best: ValidationReport | None


class Driver:
    """Runs batches ``start .. steps`` in order over an :class:`Executor`."""

    def __init__(
        self,
        config: RunConfig,
        executor: Executor,
        observers: Sequence[Observer] = (),
        extra: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        before_checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        """Wire the loop.

        Args:
            extra: plain values to keep in every checkpoint, beside the best evaluation and the
                seconds spent.
            before_checkpoint: called before each one: what it builds on must be on disk by then.
        """
        self._before_checkpoint = before_checkpoint
        self._config, self._executor, self._observers = config, executor, observers
        self._extra, self._clock = extra or {}, clock
        self._pool, self._lag = config.rollout.pool, config.rollout.lag
        self._steps = config.optimiser.steps

    def run(
        self, start: int = 0, best: ValidationReport | None = None, spent: Spent | None = None
    ) -> TrainingResult:
        """Train from batch ``start`` (steps already done) to the end.

        Whatever stops the loop, the executor's last checkpoint stays behind; an exception of a
        stage names its shard and passes through. Where the teacher stayed away, what was learnt so
        far is saved first.

        Args:
            best: the best evaluation before ``start``.
            spent: on the steps before ``start``.

        Raises:
            UserError: the checkpoint lacks weights that the batches to come must be written with.
        """
        spent = spent or Spent()
        last = self._clock()
        self._began = last - spent.train_s
        self._validation_s, stopped = spent.validation_s, False
        pending: dict[int, list[object]] = {}
        submitted = handed = start
        if start == 0:
            self._executor.publish(0)
        else:
            self._check_versions(start)
        done = start
        while done < self._steps:
            submitted = self._submit(submitted, done, pending)
            try:
                if handed == done:
                    handed = self._hand_over(handed, pending)
                if handed == done + 1 and self._next_is_ready(handed, pending):
                    handed = self._hand_over(handed, pending)
                report = self._executor.finished()
            except TeacherError:
                self._checkpoint(best)
                raise
            done += 1
            now = self._clock()
            for observer in self._observers:
                observer.on_step(report, now - last)
            last = now
            self._executor.retire(self._version(done))
            if self._validates(done):
                submitted = self._submit(submitted, done, pending)
                found = self._executor.validate()
                self._validation_s += found.seconds
                best = found if best is None or found.best else best
                for observer in self._observers:
                    observer.on_validation(found)
                stopped = self._out_of_patience(found, best)
                last = self._clock()
            if stopped or self._saves(done):
                self._checkpoint(best)
                last = self._clock()
            if stopped:
                break
        spent = self._spent()
        return TrainingResult(done, spent.train_s, spent.validation_s, stopped, best)

    def _spent(self) -> Spent:
        return Spent(self._clock() - self._began, self._validation_s)

    def _checkpoint(self, best: ValidationReport | None) -> None:
        found = asdict(best) if best is not None else None
        self._before_checkpoint()
        self._executor.checkpoint(self._extra | {"best": found, "spent": asdict(self._spent())})

    def _check_versions(self, start: int) -> None:
        """After a resume: batches whose version lies behind need it in the checkpoint."""
        ahead = range(start, min(start + self._pool + self._lag + 1, self._steps))
        needed = {v for v in map(self._version, ahead) if v <= start}
        missing = sorted(needed - set(self._executor.published()))
        if missing:
            raise UserError(
                f"the checkpoint after {start} steps holds no weights of version {missing[0]}, "
                f"which rollout.pool {self._pool} and rollout.lag {self._lag} ask for; resume with "
                "the pool and lag the run began with"
            )

    def _submit(self, submitted: int, done: int, pending: dict[int, list[object]]) -> int:
        """Submit every batch whose version exists after ``done`` steps."""
        while submitted < self._steps and self._version(submitted) <= done:
            share = beta(self._config.mixing, submitted, self._steps)
            pending[submitted] = [
                self._executor.submit(ShardTask(submitted, j, self._version(submitted), share))
                for j in range(self._config.batch.shards)
            ]
            submitted += 1
        return submitted

    def _hand_over(self, batch: int, pending: dict[int, list[object]]) -> int:
        """Hand a batch to the learner, and what comes right after its step; the batch after it."""
        self._executor.hand_over(pending.pop(batch))
        if self._is_version(batch + 1):
            self._executor.publish(batch + 1)
        return batch + 1

    def _next_is_ready(self, batch: int, pending: dict[int, list[object]]) -> bool:
        """Whether a batch may be handed over before the step before it is reported."""
        if self._validates(batch) or self._saves(batch) or batch not in pending:
            return False
        return self._executor.ready(pending[batch])

    def _validates(self, done: int) -> bool:
        return done % self._config.validation.every == 0 or done == self._steps

    def _saves(self, done: int) -> bool:
        return done % self._config.checkpoint_every == 0 or done == self._steps

    def _version(self, batch: int) -> int:
        return version_for(batch, self._pool, self._lag)

    def _is_version(self, step: int) -> bool:
        """Whether the weights after ``step`` steps write some batch, of this run or of a longer
        one that goes on from it."""
        return (step + self._lag) % self._pool == 0

    def _out_of_patience(self, found: ValidationReport, best: ValidationReport | None) -> bool:
        patience = self._config.validation.patience
        if not patience:
            return False
        since = best.step if best is not None else 0
        return not found.best and found.step - since >= patience * self._config.validation.every
