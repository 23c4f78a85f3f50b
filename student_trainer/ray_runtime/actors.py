"""Rollout worker and learner as Ray actors: thin wrappers that build and call the plain classes.

Constructors keep their arguments and nothing else; ``prepare`` builds. An exception of a method
reaches the driver as itself, one of a constructor does not.
"""

from __future__ import annotations

import os
import socket
import threading
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import ray
import torch

from student_trainer.config import RunConfig
from student_trainer.data_parallel import Group, Place
from student_trainer.ray_runtime.cluster import Ref
from student_trainer.ray_runtime.inputs import InputsRef, take_inputs
from student_trainer.ray_runtime.metrics import RunMetrics
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import make_learner, make_worker, prepare_vocabulary
from student_trainer.teachers import make_teacher
from student_trainer.types import (
    ScoredShard,
    ShardTask,
    StepReport,
    ValidationReport,
    Weights,
    WorkerReady,
)

# A list of one: Ray hands over a reference inside a list as it is, where a bare one is fetched.
# Empty where workers need no student.
WeightsRef: TypeAlias = "list[Ref]"


class RolloutActor:
    """A :class:`~student_trainer.rollout_worker.RolloutWorker` in a process of its own.

    Ray calls ``run`` in several threads: one shard is written while others are with the teacher.
    """

    def __init__(self, config: RunConfig, run_path: Path, inputs: InputsRef) -> None:
        self._config, self._run_path, self._inputs = config, run_path, inputs
        self._writing = threading.Lock()

    def prepare(self) -> WorkerReady:
        """Take the inputs, build model and client.

        Raises:
            UserError: see :mod:`student_trainer.setup`.
        """
        torch.set_num_threads(self._config.worker_threads)
        vocabulary, data = take_inputs(self._config, self._run_path, self._inputs)
        teacher = make_teacher(self._config, vocabulary)
        self._worker = make_worker(self._config, vocabulary, data, teacher)
        self._metrics = RunMetrics(self._config.name)
        node = ray.get_runtime_context().get_node_id()
        fit, plan = self._worker.fit, self._worker.plan
        return WorkerReady(os.getpid(), fit, plan, node, socket.gethostname())

    @ray.method(num_returns=2)
    def run(self, task: ShardTask, weights: WeightsRef) -> tuple[ShardTask, ScoredShard]:
        """A receipt for the driver, and the shard, which stays in the object store.

        Raises:
            UserError, TeacherError: see ``RolloutWorker``.
        """
        with self._writing:
            if weights and task.version != self._worker.version:
                self._worker.load(task.version, to_tensors(ray.get(weights[0])))
            draft = self._worker.write(task)
        shard = self._worker.score(draft)
        self._metrics.shard(shard)
        return task, shard


class LearnerActor:
    """A :class:`~student_trainer.learner.Learner` in a process of its own, on its own device."""

    def __init__(self, config: RunConfig, run: RunDirectory) -> None:
        self._config, self._run = config, run

    def prepare(self, place: Place | None = None) -> None:
        """Build student and optimiser.

        Args:
            place: the leader's, where the learner is several processes.

        Raises:
            UserError: see :mod:`student_trainer.setup`; its processes do not meet.
        """
        torch.set_num_threads(self._config.learner_threads)
        vocabulary = prepare_vocabulary(self._config, self._run.path)
        group = Group(place, self._config.device) if place is not None else None
        self._learner = make_learner(self._config, vocabulary, self._run, group)
        self._metrics = RunMetrics(self._config.name)

    def ping(self) -> None:
        """Answer, if alive."""

    def free_port(self) -> tuple[str, int]:
        """An address of this machine where the learner's processes can meet."""
        host = ray.util.get_node_ip_address()
        with socket.create_server((host, 0)) as server:
            return host, server.getsockname()[1]

    def restore(self) -> tuple[int, dict[str, Any] | None, list[int]]:
        """Steps done, extra values of the checkpoint, versions it holds."""
        extra = self._learner.restore()
        return self._learner.steps_done, extra, self._learner.store.versions()

    def step(self, *shards: ScoredShard) -> StepReport:
        """One optimiser step; Ray fetched the shards from where they were written."""
        report = self._learner.step(shards)
        self._metrics.step(report)
        return report

    def publish(self, version: int) -> WeightsRef:
        """Hold the present weights as ``version`` and put them in the object store, once."""
        self._learner.publish(version)
        self._metrics.published(version)
        return self.weights(version)

    def weights(self, version: int) -> WeightsRef:
        """Put held weights in the object store."""
        if not self._config.workers_need_student:
            return []
        return [ray.put(to_arrays(self._learner.store.get(version)))]

    def retire(self, before: int) -> None:
        """Drop versions below ``before``."""
        self._learner.store.retire(before)

    def validate(self) -> ValidationReport:
        """Evaluate the student."""
        return self._learner.validate()

    def checkpoint(self, extra: dict[str, Any]) -> None:
        """Write a checkpoint."""
        self._learner.save_checkpoint(extra)


def to_arrays(weights: Weights) -> dict[str, Any]:
    """Tensors as arrays, which the object store shares between processes without copying."""
    return {name: tensor.numpy() for name, tensor in weights.items()}


def to_tensors(arrays: dict[str, Any]) -> Weights:
    """Read-only views of arrays in the object store; to be copied from, never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
