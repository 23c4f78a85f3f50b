"""One process, no Ray: the debugger's mode and the oracle of the distributed executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from seq2seq.data import Fit
from student_trainer.learner import Learner
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.types import ScoredShard, ShardTask, StepReport, ValidationReport


class InlineExecutor:
    """Runs a shard when the learner asks for it, with exactly the version the task names."""

    def __init__(
        self, learner: Learner, worker: RolloutWorker, close: Callable[[], None] = lambda: None
    ) -> None:
        self._learner, self._worker, self._close = learner, worker, close
        self._reports: deque[StepReport] = deque()

    @property
    def fit(self) -> Fit:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._worker.fit

    @property
    def plan(self) -> str:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._worker.plan

    def restore(self) -> tuple[int, dict[str, Any] | None]:
        """See :class:`~student_trainer.executor.Executor`."""
        extra = self._learner.restore()
        return self._learner.steps_done, extra

    def submit(self, task: ShardTask) -> ShardTask:
        """The task is its own handle: nothing runs before ``hand_over``."""
        return task

    def ready(self, handles: Sequence[object]) -> bool:
        """Never: the shards are still to be written."""
        return False

    def hand_over(self, handles: Sequence[object]) -> None:
        """Write and score the shards, then step."""
        self._reports.append(self._learner.step([self._run(h) for h in handles]))

    def finished(self) -> StepReport:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._reports.popleft()

    def _run(self, handle: object) -> ScoredShard:
        assert isinstance(handle, ShardTask)
        if handle.version != self._worker.version:
            self._worker.load(handle.version, self._learner.store.get(handle.version))
        return self._worker.run(handle)

    def publish(self, version: int) -> None:
        """See :class:`~student_trainer.executor.Executor`."""
        self._learner.publish(version)

    def published(self) -> list[int]:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._learner.store.versions()

    def retire(self, before: int) -> None:
        """See :class:`~student_trainer.executor.Executor`."""
        self._learner.store.retire(before)

    def validate(self) -> ValidationReport:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._learner.validate()

    def checkpoint(self, extra: dict[str, Any]) -> None:
        """See :class:`~student_trainer.executor.Executor`."""
        self._learner.save_checkpoint(extra)

    def close(self) -> None:
        """Close the connection to the teacher, end the learner's other processes."""
        self._close()
