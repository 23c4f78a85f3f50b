"""Who is told of a run's progress: the metrics file, TensorBoard, Prometheus, the terminal."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.resuming import Standing
from student_trainer.run_directory import RunDirectory
from student_trainer.types import StepReport, ValidationReport
from student_trainer.verdict import StageTimes, judge

if TYPE_CHECKING:
    from student_trainer.scalars import ScalarFile


class MetricsObserver:
    """Writes every step and validation to ``metrics.jsonl`` and TensorBoard, and beside each
    validation the verdict on the steps since the one before."""

    def __init__(self, config: RunConfig, run: RunDirectory, start: int) -> None:
        self._config, self._run = config, run
        self._times = StageTimes()
        self._scalar_file: ScalarFile | None = None
        try:
            from student_trainer.scalars import ScalarFile
        except ImportError:
            return
        self._scalar_file = ScalarFile(run.tensorboard, start)

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """One record a step; ``idle_s`` is how long the learner waited for shards."""
        self._times.add(report, wall_s)
        record = asdict(replace(report, shards=()))
        del record["shards"]  # they are the ledger's
        record |= {"wall_s": wall_s, "idle_s": max(0.0, wall_s - report.learn_s)}
        record["worker_s"] = report.workers * wall_s
        self._run.append_metrics({"kind": "step"} | record)
        self._scalars("train", record, report.step)

    def on_validation(self, report: ValidationReport) -> None:
        """One record a validation, one a verdict."""
        record = asdict(report)
        self._run.append_metrics({"kind": "validation"} | record)
        self._scalars("validation", record, report.step)
        verdict = judge(self._times, self._config)
        self._times = StageTimes()
        self._run.append_metrics({"kind": "verdict", "step": report.step} | asdict(verdict))
        self._scalars("verdict", verdict.stages | {"step": report.step}, report.step)

    def _scalars(self, group: str, record: dict[str, Any], step: int) -> None:
        if self._scalar_file is not None:
            numbers = {k: v for k, v in record.items() if isinstance(v, (int, float))}
            del numbers["step"]
            self._scalar_file.add(step, {f"{group}/{k}": v for k, v in numbers.items()})

    def close(self) -> None:
        """End TensorBoard's file."""
        if self._scalar_file is not None:
            self._scalar_file.close()


class PrometheusObserver:
    """How the run stands, for whoever asks at ``metrics_address``."""

    def __init__(self, config: RunConfig) -> None:
        """Listen.

        Raises:
            UserError: prometheus-client is not installed, or the address cannot be bound.
        """
        assert config.metrics_address is not None
        host, _, port = config.metrics_address.rpartition(":")
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server
        except ImportError as error:
            raise UserError(
                f"metrics_address needs prometheus-client ({error}); pip install it, or unset "
                "metrics_address"
            ) from error
        self._config, self._times = config, StageTimes()
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"trainer_{name}", what, labels, registry=registry)

        self._step = gauge("step", "Optimiser steps done.")
        self._values = gauge("value", "Of the last step, by name: loss, beta, ...", "name")
        self._scores = gauge("validation", "Of the last validation, by name.", "name")
        self._busy = gauge("busy_share", "Utilisation since the last validation.", "stage")
        gauge("steps", "Optimiser steps of the run.").set(config.optimiser.steps)
        try:
            self._server, _ = start_http_server(int(port), host or "127.0.0.1", registry)
        except (OSError, ValueError, OverflowError) as error:
            raise UserError(
                f"metrics_address {config.metrics_address} cannot be bound ({error}); give "
                "HOST:PORT with a free port"
            ) from error
        self.port: int = self._server.server_port

    def on_step(self, report: StepReport, wall_s: float) -> None:
        """Set what the next question gets."""
        self._times.add(report, wall_s)
        self._step.set(report.step)
        for name in ("loss", "beta", "learning_rate", "gradient_norm", "student_share"):
            self._values.labels(name).set(getattr(report, name))
        self._values.labels("sentences_per_s").set(report.sentences / max(wall_s, 1e-9))
        for stage, share in judge(self._times, self._config, load=0.0).stages.items():
            self._busy.labels(stage).set(share)

    def on_validation(self, report: ValidationReport) -> None:
        """Set the scores."""
        self._times = StageTimes()
        for name in ("bleu", "chrf", "loss"):
            self._scores.labels(name).set(getattr(report, name))

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class ProgressObserver:
    """A progress bar with rate, time left, loss and beta; validations as lines above it.

    A resumed run's begins at the steps done, with the time they took.
    """

    def __init__(self, steps: int, standing: Standing, console: Console) -> None:
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
        self._task = self._progress.add_task(
            "train", total=steps, completed=standing.start, rate=""
        )
        task = self._progress.tasks[0]
        if task.start_time is not None:
            task.start_time -= standing.spent.train_s
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
