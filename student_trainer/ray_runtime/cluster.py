"""The Ray cluster of a run: one that is there, or a local one started and stopped with the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray

from seq2seq.errors import UserError

_log = logging.getLogger(__name__)

Ref: TypeAlias = "ray.ObjectRef[Any]"
OBJECT_STORE_BYTES = 256 << 20
_START_ATTEMPTS = 3


@dataclass(frozen=True)
class Cluster:
    """A cluster this process is connected to.

    Attributes:
        started_here: whether :meth:`close` ends the connection (and a local cluster with it).
    """

    started_here: bool

    def close(self) -> None:
        """Leave; a local cluster that was started here stops."""
        if self.started_here:
            ray.shutdown()


def connect(object_store_bytes: int = OBJECT_STORE_BYTES, cpus: int = 1) -> Cluster:
    """Use the cluster this process has joined, else join ``RAY_ADDRESS``, else start one here.

    Args:
        object_store_bytes: shared memory of a local Ray; what does not fit spills to disk.
        cpus: that a local Ray counts, and processes it readies while it starts. Actors of a run
            reserve none on one machine, so one is enough.

    Raises:
        UserError: no cluster answers at ``RAY_ADDRESS``, or Ray does not start.
    """
    if ray.is_initialized():
        return Cluster(started_here=False)
    # Ray's notices on start (token authentication, the dashboard) tell a user nothing.
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        _start(object_store_bytes, cpus)
    return Cluster(started_here=True)


def is_joined() -> bool:
    """Whether the cluster is one at ``RAY_ADDRESS``, which may be of several machines."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises plain ones too
        ray.shutdown()
        remedy = "start it, or unset RAY_ADDRESS to use a local one"
        if any("InvalidAuthToken" in str(e) for e in _chain(error)):
            remedy = "it asks for its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise UserError(
            f"no Ray cluster to join at RAY_ADDRESS={address} ({first_line(error)}); {remedy}"
        ) from error


def _start(object_store_bytes: int, cpus: int) -> None:
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises plain ones too
            ray.shutdown()
            # Its processes give each other seconds to start that no setting reaches, too few on a
            # busy machine.
            if attempt == _START_ATTEMPTS:
                raise UserError(
                    f"Ray does not start here ({first_line(error)}); use --runtime inline"
                ) from error
            _log.warning("Ray did not start in time (%s); trying again", first_line(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """The first line of a message of many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Home:
    """The driver's own node.

    Attributes:
        node: as Ray names it.
        cpus, gpus: that it offers to the cluster.
        resource: of which it alone has one.
        joined: whether nodes may join, as the cluster is not one that this process started.
    """

    node: str
    cpus: float
    gpus: float
    resource: str = ""
    joined: bool = False


def home() -> Home:
    """The node this process is connected to the cluster by."""
    node = ray.get_runtime_context().get_node_id()
    offered: dict[str, float] = next(
        (n["Resources"] for n in ray.nodes() if n["NodeID"] == node), {}
    )
    named = (k for k in offered if k.startswith("node:") and not k.startswith("node:__"))
    cpus, gpus = (offered.get(kind, 0.0) for kind in ("CPU", "GPU"))
    return Home(node, cpus, gpus, next(named, ""), is_joined())


def resources() -> tuple[int, dict[str, float]]:
    """Nodes alive, and the resources of all of them together."""
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return nodes, ray.cluster_resources()
