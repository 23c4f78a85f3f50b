"""The trainer's own actors, pool and driver over stages that sleep for a fixed time.

What is left besides the sleeping is what the pipeline itself costs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from imitkd.demo import CONFIG, TEACHER
from imitkd.shipped import shipped
from seq2seq.data import Fit
from seq2seq.plan import BatchPlan
from seq2seq.vocabulary import EOS_ID
from student_trainer.config import RunConfig, load_config
from student_trainer.data_parallel import Place
from student_trainer.driver import Driver, Observer
from student_trainer.inline import InlineExecutor
from student_trainer.learner import _learnt
from student_trainer.ledger import Beginning, Ledger
from student_trainer.observers import MetricsObserver
from student_trainer.ray_runtime import executor as executor_module
from student_trainer.ray_runtime.actors import LearnerActor, RolloutActor
from student_trainer.ray_runtime.metrics import RunMetrics
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.run_directory import RunDirectory
from student_trainer.types import (
    ScoredShard,
    StepReport,
    ValidationReport,
    Weights,
    WorkerReady,
)
from student_trainer.weight_store import WeightStore
from teacher_service.client import TeacherClient
from teacher_service.codec import ScoreResult, TopK

_ROWS, _LENGTH, _CANDIDATES = 4096, 16, 8
_NONE = "-"


@dataclass(frozen=True)
class Stages:
    """Seconds each stage sleeps: generation and scoring a shard, learning a batch.

    Attributes:
        parameters: of the student whose weights are published.
        teachers: addresses of a service that sleeps by itself, with commas between; empty: each
            worker's teacher sleeps for ``score_s`` in its own process.
    """

    generate_s: float = 0.0
    score_s: float = 0.0
    learn_s: float = 0.0
    parameters: int = 1000
    teachers: str = ""

    def write(self) -> str:
        """For :meth:`read`, in another process."""
        times = f"{self.generate_s} {self.score_s} {self.learn_s}"
        return f"{times} {self.parameters} {self.teachers or _NONE}"

    @classmethod
    def read(cls, text: str) -> Stages:
        """What :meth:`write` gave."""
        generate, score, learn, parameters, teachers = text.split()
        return cls(
            float(generate),
            float(score),
            float(learn),
            int(parameters),
            "" if teachers == _NONE else teachers,
        )


class _Lines:
    """A training split made of nothing."""

    fit = Fit()

    def source(self, row: int, u: float = 0.0) -> np.ndarray:
        ids = np.full(_LENGTH, row % 1000 + 10, np.int32)
        ids[-1] = EOS_ID
        return ids

    target = source


class SleepingWriter:
    """Writes after a while, with weights it copies as a student would."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._own = torch.zeros(stages.parameters)

    def load(self, weights: Weights) -> None:
        self._own.copy_(weights["all"])

    def write(self, sources: Sequence[np.ndarray], mode: Any, keys: Any) -> list[list[int]]:
        time.sleep(self._stages.generate_s)
        return [source.tolist() for source in sources]


class SleepingTeacher:
    """One model: questions wait for each other."""

    def __init__(self, stages: Stages) -> None:
        self._stages, self._one = stages, threading.Lock()

    def score(
        self, sources: Any, targets: Any, payload: Any, *, temperature: float = 1.0
    ) -> ScoreResult:
        with self._one:
            time.sleep(self._stages.score_s)
        positions = sum(len(t) for t in targets)
        ids = np.tile(np.arange(_CANDIDATES, dtype=np.int32), (positions, 1))
        log_probs = np.full((positions, _CANDIDATES), -3.0, np.float32)
        found = TopK(ids, log_probs, log_probs[:, 0])
        lengths = np.array([len(t) for t in targets], np.int32)
        return ScoreResult(lengths, log_probs[:, 0], found, "none", 0.0, self._stages.score_s)


class SleepingLearner:
    """Learns nothing, in order."""

    def __init__(self, stages: Stages) -> None:
        self._stages, self.steps_done, self.store = stages, 0, WeightStore()
        self._weights = torch.zeros(stages.parameters)

    def step(self, shards: Sequence[ScoredShard]) -> StepReport:
        assert [s.batch for s in shards] == [self.steps_done] * len(shards)
        time.sleep(self._stages.learn_s)
        self.steps_done += 1
        sentences = sum(len(s.targets) for s in shards)
        positions = sum(s.positions for s in shards)
        return StepReport(
            step=self.steps_done,
            version=shards[0].version,
            beta=shards[0].beta,
            loss=1.0,
            gradient_norm=1.0,
            learning_rate=0.0,
            sentences=sentences,
            positions=positions,
            scored_sentences=sentences,
            scored_positions=positions,
            student_share=1.0,
            generate_s=sum(s.generate_s for s in shards),
            score_s=sum(s.score_s for s in shards),
            learn_s=self._stages.learn_s,
            teacher_s=sum(s.teacher_s for s in shards),
            shards=tuple(map(_learnt, shards)),
        )

    def publish(self, version: int) -> Weights:
        self.store.put(version, {"all": self._weights.clone()})
        return self.store.get(version)

    def validate(self) -> ValidationReport:
        return ValidationReport(self.steps_done, 0.0, 0.0, 0.0, 0.0, best=False)

    def save_checkpoint(self, extra: dict[str, Any]) -> None:
        """Nothing is kept."""


class SleepingRolloutActor(RolloutActor):
    """The real ``run`` over a worker whose writer and teacher sleep."""

    def prepare(self) -> WorkerReady:
        self._worker = worker_of(self._config, Stages.read(self._config.name))
        self._metrics = RunMetrics(self._config.name)
        return WorkerReady(os.getpid(), self._worker.fit, self._worker.plan)

    def fetch(self, weights: list[Any], version: int) -> None:
        """What ``run`` does with weights it has not seen."""
        from student_trainer.ray_runtime.actors import to_tensors

        self._worker.load(version, to_tensors(ray.get(weights[0])))


class SleepingLearnerActor(LearnerActor):
    """The real calls over a learner that sleeps."""

    def prepare(self, place: Place | None = None) -> None:
        self._learner = SleepingLearner(Stages.read(self._config.name))  # type: ignore[assignment]
        self._metrics = RunMetrics(self._config.name)


def config_of(
    stages: Stages, steps: int, *, workers: int = 1, shards: int = 1, pool: int = 4, lag: int = 4
) -> RunConfig:
    """A configuration whose name tells the actors how long to sleep."""
    return load_config(
        shipped(CONFIG),
        [
            f"name={stages.write()}",
            f"vocabulary.from={shipped(TEACHER)}",
            "initialise=null",
            f"optimiser.steps={steps}",
            f"workers={workers}",
            f"batch={{sentences: {4 * shards}, shards: {shards}}}",
            f"rollout.pool={pool}",
            f"rollout.lag={lag}",
            "mixing={schedule: constant, value: 0.0}",
            f"validation.every={steps}",
        ],
    )


def worker_of(config: RunConfig, stages: Stages) -> RolloutWorker:
    """The real worker between a sleeping writer and a sleeping teacher."""
    lengths = np.full(_ROWS, _LENGTH)
    plan = BatchPlan(lengths, seed=config.seed, sentences=config.batch.sentences)
    lines: Any = _Lines()
    teacher: Any = SleepingTeacher(stages)
    if stages.teachers:
        teacher = TeacherClient(stages.teachers)
    return RolloutWorker(config, lines, plan, SleepingWriter(stages), teacher)


@contextlib.contextmanager
def sleeping_actors() -> Iterator[None]:
    """The Ray executor uses them inside the block, and no corpus."""
    theirs: dict[str, Any] = {
        "RolloutActor": SleepingRolloutActor,
        "LearnerActor": SleepingLearnerActor,
        "offer_inputs": lambda *_: [],
    }
    before = {name: getattr(executor_module, name) for name in theirs}
    try:
        for name, value in theirs.items():
            setattr(executor_module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(executor_module, name, value)


class Pace:
    """An observer that keeps when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, report: StepReport, wall_s: float) -> None:
        self.ends.append(time.perf_counter())

    def on_validation(self, report: ValidationReport) -> None:
        """Comes after the last step."""

    def steps_per_s(self, warm_up: int) -> float:
        """Of the steps after the first so many."""
        return (len(self.ends) - 1 - warm_up) / (self.ends[-1] - self.ends[warm_up])


def drive(
    config: RunConfig, scratch: Path, *, inline: bool = False, observers: Sequence[Observer] = ()
) -> Pace:
    """Run to the end with all that a run writes; when its steps ended."""
    pace = Pace()
    run = RunDirectory(scratch)
    run.path.mkdir(parents=True, exist_ok=True)
    if inline:
        stages = Stages.read(config.name)
        learner: Any = SleepingLearner(stages)
        executor: Any = InlineExecutor(learner, worker_of(config, stages))
    else:
        with sleeping_actors():
            executor = executor_module.RayExecutor(config, run)
    with contextlib.closing(executor):
        rollout, shards = config.rollout, config.batch.shards
        beginning = Beginning(1, 0, executor.plan, rollout.pool, rollout.lag, shards, "none")
        metrics = MetricsObserver(config, run, 0)
        with contextlib.closing(metrics):
            ledger = Ledger(run, beginning)
            Driver(config, executor, [ledger, metrics, pace, *observers]).run()
    return pace
