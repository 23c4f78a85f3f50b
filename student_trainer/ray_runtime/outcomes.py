"""What a call to an actor came to: its value, its own exception, or a death and whose."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from student_trainer.ray_runtime.cluster import Ref
from student_trainer.types import WorkerReady


def died(actor: Any, error: RayActorError) -> bool:
    """Whether it is this actor that died: a call also fails with the one that made its input."""
    return error.actor_id in (None, actor._actor_id.hex())


def lost_with_node(worker: WorkerReady | None) -> bool:
    """Whether a worker's machine went away: no shard is to blame for that."""
    if worker is None or not worker.node:
        return False
    return any(n["NodeID"] == worker.node and not n["Alive"] for n in ray.nodes())


def machines_lost() -> int:
    """How many machines the cluster has lost so far."""
    return sum(not node["Alive"] for node in ray.nodes())


def value_of(ref: Ref) -> Any:
    """The value of a finished call, or its exception as the actor raised it.

    Raises:
        Exception: what the call raised; Ray's own account with the remote traceback is its cause.
        RayActorError: the actor's process died.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayError) or not isinstance(cause, Exception):
            raise
        raise cause from error
