"""Who is told of a run's progress: the metrics file, TensorBoard, the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from student_trainer.run_directory import RunDirectory
from student_trainer.types import StepReport, ValidationReport

if TYPE_CHECKING:
    from student_trainer.scalars import ScalarFile


class MetricsObserver:
    """Writes every step and validation to ``metrics.jsonl`` and TensorBoard."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._scalar_file: ScalarFile | None = None
        try:
            from student_trainer.scalars import ScalarFile
        except ImportError:
            return
        self._scalar_file = ScalarFile(run.tensorboard)

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """One record a step; ``idle_s`` is how long the learner waited for shards."""
        record = asdict(report) | {"wall_s": wall_s, "idle_s": max(0.0, wall_s - report.learn_s)}
        self._run.append_metrics({"kind": "step"} | record)
        self._scalars("train", record, report.step)

    def on_validation(self, report: ValidationReport) -> None:
        """One record a validation."""
        record = asdict(report)
        self._run.append_metrics({"kind": "validation"} | record)
        self._scalars("validation", record, report.step)

    def _scalars(self, group: str, record: dict[str, Any], step: int) -> None:
        if self._scalar_file is not None:
            numbers = {k: v for k, v in record.items() if isinstance(v, (int, float))}
            del numbers["step"]
            self._scalar_file.add(step, {f"{group}/{k}": v for k, v in numbers.items()})

    def close(self) -> None:
        """End TensorBoard's file."""
        if self._scalar_file is not None:
            self._scalar_file.close()


class ProgressObserver:
    """A progress bar with rate, time left, loss and beta; validations as lines above it."""

    def __init__(self, steps: int, start: int, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, rate="")
        self._rate = 0.0
        self._progress.start()

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """Move the bar."""
        rate = report.sentences / max(wall_s, 1e-9)
        self._rate = rate if not self._rate else 0.95 * self._rate + 0.05 * rate
        text = f"{self._rate:.0f} sent/s  loss {report.loss:.3f}  beta {report.beta:.3f}"
        self._progress.update(self._task, completed=report.step, rate=text)

    def on_validation(self, report: ValidationReport) -> None:
        """Print the scores."""
        mark = "  best so far" if report.best else ""
        scores = f"BLEU {report.bleu:.2f}  chrF {report.chrf:.2f}"
        if report.rouge1 is not None:
            scores = f"ROUGE-1/2/L {report.rouge1:.2f}/{report.rouge2:.2f}/{report.rougeL:.2f}"
        self._console.print(
            f"step {report.step}: validation {scores}  loss {report.loss:.3f}{mark}"
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()
