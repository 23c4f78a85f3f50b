"""The pipeline as a discrete-event simulation: workers, teacher replicas, learner, versions.

It goes by the rules of the real parts and by seconds that are given. The driver submits a batch
when its version exists and hands shards to the least loaded workers, ``DEPTH`` each; a worker
writes one at a time and asks the replica where it has the least outstanding; a replica takes all
that wait as one batch, up to its budget, whose time is in proportion; the learner takes batches in
order.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.shared_cores import SharedCores
from student_trainer.mixing import version_for
from student_trainer.sizing import DEPTH, Fleet, Shape, Stages


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        stages: G, S, L of a batch and what passes between.
        answer_s: of a question beside the model's time: the wire, and the service around it.
        together: shards that a replica computes as one batch, at most.
        spread: standard deviation of the logarithm of times to write and to score.
        cores: that writing, scoring and learning share, a thread for each worker, replica and
            learner; infinite: each has its own. What passes between them takes none.
    """

    stages: Stages
    fleet: Fleet
    shape: Shape
    answer_s: float = 0.0
    together: int = 8
    spread: float = 0.0
    cores: float = math.inf


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        rate: batches a second after the first quarter.
        generate, score, learn: share of the time in which each was busy, or would have been with
            cores of its own.
        under_way: batches submitted and not learnt, on average at the end of a step.
    """

    rate: float
    generate: float
    score: float
    learn: float
    under_way: float


@dataclass(eq=False)
class _Worker:
    """Shards it holds and those it still has to write; what it has with each replica."""

    number: int
    held: int = 0
    writing: bool = False
    to_write: deque[int] = field(default_factory=deque)
    outstanding: list[int] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)


@dataclass(eq=False)
class _Replica:
    """Questions that wait, and those computed."""

    busy: bool = False
    waiting: deque[tuple[_Worker, int]] = field(default_factory=deque)


class Simulation:
    """One run of so many steps; all of it follows from the plan and the seed."""

    def __init__(self, plan: Plan, steps: int, seed: int = 0) -> None:
        self._plan, self._steps = plan, steps
        self._draw = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tickets = itertools.count()
        self._cores = SharedCores(plan.cores)
        replicas = plan.fleet.replicas
        self._replicas = [_Replica() for _ in range(replicas)]
        self._workers = [
            _Worker(
                n, outstanding=[0] * replicas, asked=[self._draw.random() for _ in range(replicas)]
            )
            for n in range(plan.fleet.workers)
        ]
        # Workers by how many shards they hold: the least loaded one is at hand.
        self._by_load: list[list[tuple[int, _Worker]]] = [[] for _ in range(DEPTH)]
        self._by_load[0] = [(w.number, w) for w in self._workers]
        self._shards: deque[int] = deque()
        self._left: dict[int, int] = {}
        self._submitted = self._done = 0
        self._learning = False
        self._driver_free = 0.0
        self._asked = 1
        self._busy = {"generate": 0.0, "score": 0.0, "learn": 0.0}
        self._ends: list[float] = []
        self._under_way = 0

    def run(self) -> Outcome:
        """To the last step."""
        self._submit()
        while self._done < self._steps:
            if self._events and self._events[0][0] <= self._cores.next_end():
                self._now, _, act, arguments = heapq.heappop(self._events)
                act(*arguments)
            else:
                self._now = self._cores.next_end()
                self._cores.end_next()()
        first = len(self._ends) // 4
        fleet, wall = self._plan.fleet, self._now
        return Outcome(
            (len(self._ends) - 1 - first) / (self._ends[-1] - self._ends[first]),
            self._busy["generate"] / wall / fleet.workers,
            self._busy["score"] / wall / max(1, fleet.replicas),
            self._busy["learn"] / wall,
            self._under_way / len(self._ends),
        )

    def _after(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._tickets), act, arguments))

    def _compute_for(self, seconds: float, act: Callable[[], None], threads: int = 1) -> None:
        """``act`` follows after so much work."""
        if math.isinf(self._plan.cores):
            self._after(seconds, act)
        else:
            self._cores.begin(self._now, seconds, threads, act)

    def _time(self, seconds: float) -> float:
        """A draw around a mean."""
        spread = self._plan.spread
        if not spread:
            return seconds
        return seconds * math.exp(self._draw.gauss(-spread * spread / 2, spread))

    # ----------------------------------------------------------------------------------- the driver

    def _submit(self) -> None:
        """Every batch whose version exists."""
        shape = self._plan.shape
        while (
            self._submitted < self._steps
            and version_for(self._submitted, shape.pool, shape.lag) <= self._done
        ):
            self._left[self._submitted] = shape.shards
            self._shards.extend([self._submitted] * shape.shards)
            self._submitted += 1
        self._dispatch()

    def _dispatch(self) -> None:
        while self._shards:
            worker = self._least_loaded()
            if worker is None:
                return
            self._driver_free = max(self._driver_free, self._now) + self._plan.stages.shard_s
            self._after(self._driver_free - self._now, self._given, worker, self._shards.popleft())

    def _least_loaded(self) -> _Worker | None:
        for load, workers in enumerate(self._by_load):
            while workers:
                _, worker = heapq.heappop(workers)
                if worker.held == load:  # else it stands elsewhere too
                    self._holds(worker, load + 1)
                    return worker
        return None

    def _holds(self, worker: _Worker, shards: int) -> None:
        worker.held = shards
        if shards < DEPTH:
            heapq.heappush(self._by_load[shards], (worker.number, worker))

    # ------------------------------------------------------------------------- workers and replicas

    def _given(self, worker: _Worker, batch: int) -> None:
        worker.to_write.append(batch)
        self._write(worker)

    def _write(self, worker: _Worker) -> None:
        if worker.writing or not worker.to_write:
            return
        worker.writing = True
        seconds = self._time(self._plan.stages.generate_s / self._plan.shape.shards)
        self._busy["generate"] += seconds
        self._compute_for(seconds, partial(self._written, worker, worker.to_write.popleft()))

    def _written(self, worker: _Worker, batch: int) -> None:
        worker.writing = False
        self._write(worker)
        if not self._replicas:
            self._scored(worker, batch)
            return
        place = min(
            range(len(self._replicas)), key=lambda r: (worker.outstanding[r], worker.asked[r])
        )
        self._asked += 1
        worker.asked[place] = self._asked
        worker.outstanding[place] += 1
        self._after(self._plan.answer_s / 2, self._arrives, self._replicas[place], worker, batch)

    def _arrives(self, replica: _Replica, worker: _Worker, batch: int) -> None:
        replica.waiting.append((worker, batch))
        self._score(replica)

    def _score(self, replica: _Replica) -> None:
        if replica.busy or not replica.waiting:
            return
        replica.busy = True
        count = min(self._plan.together, len(replica.waiting))
        taken = [replica.waiting.popleft() for _ in range(count)]
        one = self._plan.stages.score_s / self._plan.shape.shards
        seconds = sum(self._time(one) for _ in taken)
        self._busy["score"] += seconds
        self._compute_for(seconds, partial(self._computed, replica, taken))

    def _computed(self, replica: _Replica, taken: list[tuple[_Worker, int]]) -> None:
        replica.busy = False
        place = self._replicas.index(replica)
        for worker, batch in taken:
            self._after(self._plan.answer_s / 2, self._answered, worker, batch, place)
        self._score(replica)

    def _answered(self, worker: _Worker, batch: int, place: int) -> None:
        worker.outstanding[place] -= 1
        self._scored(worker, batch)

    def _scored(self, worker: _Worker, batch: int) -> None:
        self._holds(worker, worker.held - 1)
        self._left[batch] -= 1
        self._dispatch()
        self._learn()

    # ---------------------------------------------------------------------------------- the learner

    def _learn(self) -> None:
        if self._learning or self._left.get(self._done, 1):
            return
        self._learning = True
        learners = self._plan.fleet.learners
        seconds = self._plan.stages.learn_by(learners)
        self._busy["learn"] += seconds
        self._compute_for(seconds, self._stepped, learners)

    def _stepped(self) -> None:
        self._after(self._plan.stages.step_s, self._learnt)

    def _learnt(self) -> None:
        self._learning = False
        del self._left[self._done]
        self._done += 1
        self._ends.append(self._now)
        self._submit()
        self._under_way += self._submitted - self._done
        self._learn()


def simulate(plan: Plan, steps: int, seed: int = 0) -> Outcome:
    """Run a plan."""
    return Simulation(plan, steps, seed).run()
