"""What the driver asks of whoever runs workers and learner; inline and Ray both answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from seq2seq.data import Fit
from student_trainer.types import ShardTask, StepReport, ValidationReport


class Executor(Protocol):
    """Runs shards on workers and steps on the learner.

    Calls come from one thread. ``submit`` returns at once with an opaque handle; ``hand_over``
    waits for the handles of one batch, ``finished`` for the step made from them. What is asked
    between the two is done after that step.
    """

    @property
    def fit(self) -> Fit:
        """How many training sentences were longer than the student's limits."""

    @property
    def plan(self) -> str:
        """Digest of which rows make up which batch."""

    def restore(self) -> tuple[int, dict[str, Any] | None]:
        """Continue from the newest checkpoint: (steps done, its extra values or None)."""

    def submit(self, task: ShardTask) -> object:
        """Have a shard written and scored; its version is already published."""

    def ready(self, handles: Sequence[object]) -> bool:
        """Whether ``hand_over`` of these would not have to wait, nor raise."""

    def hand_over(self, handles: Sequence[object]) -> None:
        """Have one optimiser step made on the shards of the next batch, in shard order."""

    def finished(self) -> StepReport:
        """Wait for the oldest step handed over and not yet reported."""

    def publish(self, version: int) -> None:
        """Make the learner's present weights available to workers as ``version``."""

    def published(self) -> list[int]:
        """Versions available to workers."""

    def retire(self, before: int) -> None:
        """Versions below ``before`` will not be asked for again."""

    def validate(self) -> ValidationReport:
        """Evaluate the student; the best so far is kept in the run directory."""

    def checkpoint(self, extra: dict[str, Any]) -> None:
        """Save everything a resumed run needs."""

    def close(self) -> None:
        """Stop workers and learner and free what they hold."""
