"""Room that the cluster does not have yet: what is waited for is said, and the wait has an end.

Actors are asked for before there is room for them: so Ray gives them to nodes that join, and an
autoscaler sees what is wanted. All of this is done by the driver's thread, between its looks at
what actors answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from seq2seq.errors import UserError
from student_trainer.ray_runtime import cluster

_log = logging.getLogger(__name__)
# Seconds between two looks at the cluster, and between two lines that say the same.
LOOK_S = 1.0
AGAIN_S = 60.0


@dataclass(frozen=True)
class Demand:
    """CPUs that a run takes from the cluster at its beginning.

    Attributes:
        workers: without which it does not begin.
        learner_cpus: of all the learner's processes.
        lower: what of a configuration takes less if it is lowered.
    """

    workers: int
    worker_threads: int
    learner_cpus: int
    lower: str = "workers"

    @property
    def cpus(self) -> int:
        """All of them."""
        return self.workers * self.worker_threads + self.learner_cpus

    def lacks(self, offered: float) -> str:
        """What is missing where the cluster has so many; empty where nothing is."""
        if self.cpus <= offered:
            return ""
        return (
            f"{self.workers} workers of {self.worker_threads} threads and a learner of "
            f"{self.learner_cpus} need {self.cpus} CPUs, the Ray cluster has {offered:.0f}"
        )

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"lower {self.lower} (or workers_at_start, where more nodes will join) or add nodes"


class Room:
    """Waits for a demand to be met.

    Args:
        demand: None: nothing is reserved, there is always room.
        patience_s: how long the cluster may be too small without growing.
        offered: CPUs of all nodes together.
    """

    def __init__(
        self,
        demand: Demand | None,
        patience_s: float,
        offered: Callable[[], float] = lambda: cluster.resources()[1].get("CPU", 0.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience_s = patience_s
        self._demand, self._offered, self._clock = demand, offered, clock
        self._begun = self._grown = clock()
        self._largest = 0.0
        self._told, self._told_at = "", self._begun

    def look(self, ready: int = 0) -> None:
        """Say what is missing, when it changes and once a minute.

        Args:
            ready: workers that are.

        Raises:
            UserError: the cluster is too small and has not grown for ``patience_s``.
        """
        if self._demand is None:
            return
        now, offered = self._clock(), self._offered()
        if offered > self._largest:
            self._largest, self._grown = offered, now
        lacking = self._demand.lacks(offered)
        if not lacking:
            self._grown = now
        if lacking and now - self._grown >= self.patience_s:
            raise UserError(
                f"{lacking}, for {self.patience_s:.0f} s (room_timeout_s) now; "
                f"{self._demand.remedy}"
            )
        if lacking:
            self._tell(f"waiting for room: {lacking}; {self._demand.remedy}", now)
        elif now - self._begun >= AGAIN_S:
            # Room there is, but it may be others', or on nodes too small for an actor's threads.
            told = f"waiting for workers: {ready} of {self._demand.workers} are ready, each takes "
            self._tell(f"{told}{self._demand.worker_threads} CPUs of one node", now)

    def until(self, answered: cluster.Ref) -> None:
        """Return when an actor has answered, well or not.

        Raises:
            UserError: see :meth:`look`.
        """
        while not ray.wait([answered], timeout=LOOK_S)[0]:
            self.look()

    def _tell(self, line: str, now: float) -> None:
        if line != self._told or now - self._told_at >= AGAIN_S:
            self._told, self._told_at = line, now
            _log.warning("%s", line)
