"""What each actor reserves, and on which node it may run.

On one machine actors reserve no CPU: their threads are pinned by the configuration and the
operating system shares the cores, so several workers run on a laptop with two. On several nodes
each reserves as many CPUs as it has threads, and Ray spreads the workers. A single node that was
joined stands for several where it offers no CPU, or where the run need not begin with all workers:
actors that reserve nothing would all be there, and none on the nodes to come. The learner stays
with the driver, since it writes the run directory; only a learner on a GPU goes where there is one.
The driver's machine may offer fewer CPUs than the learner has threads, or none, to keep workers
off. Where the learner is several processes, their room is taken all at once, on as few nodes as can
be. What the cluster has no room for waits in Ray (``room``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.ray_runtime.cluster import Home
from student_trainer.ray_runtime.room import Demand
from student_trainer.sizing import DEPTH


@dataclass(frozen=True)
class Placement:
    """Options of Ray's actors.

    Attributes:
        worker, learner: keyword arguments of ``options``.
        learner_device: the learner's device as its process sees it (Ray shows it one GPU alone).
        follower: keyword arguments for the learner's other processes.
        bundles: what the learner's processes reserve together, the leader's first; empty where
            nothing needs reserving.
        demand: what the run takes at its beginning; None where it reserves nothing.
    """

    worker: dict[str, Any]
    learner: dict[str, Any]
    learner_device: str
    follower: dict[str, Any] = field(default_factory=dict)
    bundles: list[dict[str, float]] = field(default_factory=list)
    demand: Demand | None = None


def plan(
    config: RunConfig, nodes: int, resources: Mapping[str, float], home: Home | None = None
) -> Placement:
    """Place the run's actors.

    Args:
        nodes: machines of the cluster.
        resources: of all machines together, as Ray counts them (``CPU``, ``GPU``).
        home: the driver's machine; None: unknown, the learner may run anywhere.

    Raises:
        UserError: the cluster has too few GPUs.
    """
    on_gpu = config.device != "cpu"
    if on_gpu:
        _check_gpus(config, resources.get("GPU", 0))
    # A dead worker is replaced by the executor, which knows which shards it held.
    shared = {"max_restarts": 0, "max_task_retries": 0}
    worker: dict[str, Any] = shared | {"num_cpus": 0, "max_concurrency": DEPTH}
    learner: dict[str, Any] = shared | {"num_cpus": 0, "num_gpus": int(on_gpu)}
    follower, bundles, demand = dict(learner), [], None
    if nodes > 1 or _will_grow(config, home):
        learner |= {"num_cpus": config.learner_threads}
        if home is not None and (not on_gpu or home.gpus >= 1):
            stay = NodeAffinitySchedulingStrategy(home.node, soft=False)
            cpus = min(config.learner_threads, int(home.cpus))
            learner |= {"num_cpus": cpus, "scheduling_strategy": stay}
        worker |= {"num_cpus": config.worker_threads, "scheduling_strategy": "SPREAD"}
        follower |= {"num_cpus": config.learner_threads}
        if config.learner_processes > 1:
            bundles = _bundles(config, learner, follower, home)
        demand = _demand(config, learner["num_cpus"])
    return Placement(worker, learner, "cuda" if on_gpu else "cpu", follower, bundles, demand)


def _will_grow(config: RunConfig, home: Home | None) -> bool:
    """Whether the only node there is waits for others."""
    if home is None:
        return False
    return home.cpus < 1 or (home.joined and config.workers_at_start is not None)


def _bundles(
    config: RunConfig, learner: dict[str, Any], follower: dict[str, Any], home: Home | None
) -> list[dict[str, float]]:
    """What the leader and each follower reserve; the leader's part lies where it must stay."""
    mine, other = (
        {name: n for name, n in (("CPU", of["num_cpus"]), ("GPU", of["num_gpus"])) if n}
        for of in (learner, follower)
    )
    if home is not None and "scheduling_strategy" in learner:
        mine |= {home.resource: 0.001}
    return [mine, *[other] * (config.learner_processes - 1)]


def _check_gpus(config: RunConfig, offered: float) -> None:
    """Whether there is a GPU for each of the learner's processes."""
    if offered < 1:
        raise UserError(
            f"device {config.device}: the Ray cluster has no GPU; add a node with one or set "
            "device=cpu"
        )
    if offered < config.learner_processes:
        raise UserError(
            f"learner_processes {config.learner_processes} take a GPU each, the Ray cluster has "
            f"{offered:.0f}; lower learner_processes or add nodes"
        )


def _demand(config: RunConfig, learner_cpus: int) -> Demand:
    """Of the workers that the run begins with, and the learner."""
    others = config.learner_processes - 1
    return Demand(
        config.workers_at_start or config.workers,
        config.worker_threads,
        learner_cpus + others * config.learner_threads,
        "workers, learner_processes" if others else "workers",
    )
