"""Jobs on fewer cores than they have threads, as the operating system shares them out.

Each thread gets the same part of the cores, one core at most, so a job takes as long as its work at
the speed of the moment, which changes whenever a job begins or ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class _Job:
    """Seconds of work that each of its threads has left, and what comes after."""

    left: float
    threads: int
    done: Callable[[], None]


class SharedCores:
    """Jobs under way.

    Args:
        cores: that they share.
    """

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._jobs: list[_Job] = []
        self._now = 0.0

    def begin(self, now: float, seconds: float, threads: int, done: Callable[[], None]) -> None:
        """A job that alone takes so many seconds begins."""
        self._go_to(now)
        self._jobs.append(_Job(seconds, threads, done))

    def next_end(self) -> float:
        """When the first job ends, if none begins before; infinite where there is none."""
        if not self._jobs:
            return math.inf
        return self._now + min(job.left for job in self._jobs) / self._speed()

    def end_next(self) -> Callable[[], None]:
        """Go on to :meth:`next_end`; what comes after the job that ended."""
        job = min(self._jobs, key=lambda job: job.left)
        self._go_to(self.next_end())
        self._jobs.remove(job)
        return job.done

    def _speed(self) -> float:
        """Of each thread, where alone it is 1."""
        return min(1.0, self._cores / sum(job.threads for job in self._jobs))

    def _go_to(self, now: float) -> None:
        if self._jobs:
            done = (now - self._now) * self._speed()
            for job in self._jobs:
                job.left = max(0.0, job.left - done)
        self._now = now
