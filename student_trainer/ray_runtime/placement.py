"""What each actor reserves, and on which node it may run.

On one machine actors reserve no CPU: their threads are pinned by the configuration and the
operating system shares the cores, so several workers run on a laptop with two. On several nodes
each reserves as many CPUs as it has threads, and Ray spreads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.ray_runtime.pool import DEPTH


@dataclass(frozen=True)
class Placement:
    """Options of Ray's actors.

    Attributes:
        worker, learner: keyword arguments of ``options``.
        learner_device: the learner's device as its process sees it (Ray shows it one GPU alone).
    """

    worker: dict[str, Any]
    learner: dict[str, Any]
    learner_device: str


def plan(config: RunConfig, nodes: int, resources: Mapping[str, float]) -> Placement:
    """Place the run's actors.

    Args:
        nodes: machines of the cluster.
        resources: of all machines together, as Ray counts them (``CPU``, ``GPU``).

    Raises:
        UserError: the cluster is too small; waiting for room would never end.
    """
    on_gpu = config.device != "cpu"
    if on_gpu and resources.get("GPU", 0) < 1:
        raise UserError(
            f"device {config.device}: the Ray cluster has no GPU; add a node with one or set "
            "device=cpu"
        )
    # A dead worker is replaced by the executor, which knows which shards it held.
    shared = {"max_restarts": 0, "max_task_retries": 0}
    worker: dict[str, Any] = shared | {"num_cpus": 0, "max_concurrency": DEPTH}
    learner: dict[str, Any] = shared | {"num_cpus": 0, "num_gpus": int(on_gpu)}
    if nodes > 1:
        needed = config.workers * config.worker_threads + config.learner_threads
        if needed > resources.get("CPU", 0):
            raise UserError(
                f"{config.workers} workers of {config.worker_threads} threads and a learner of "
                f"{config.learner_threads} need {needed} CPUs, the Ray cluster has "
                f"{resources.get('CPU', 0):.0f}; lower workers or add nodes"
            )
        worker |= {"num_cpus": config.worker_threads, "scheduling_strategy": "SPREAD"}
        learner |= {"num_cpus": config.learner_threads}
    return Placement(worker, learner, "cuda" if on_gpu else "cpu")
