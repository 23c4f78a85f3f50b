"""Gives shards to workers, and runs them again where a worker died.

Owned by the driver's thread; nothing runs in the background. Waits for: receipts of shards, new
workers getting ready, and the one reference its caller waits for. Unblocked by: any of them.

A worker holds at most ``DEPTH`` shards, so that it has the next one at hand when it is done and a
slow worker keeps nobody waiting. What a shard holds does not depend on who runs it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from seq2seq.data import Fit
from seq2seq.errors import UserError
from student_trainer.ray_runtime.cluster import Ref, first_line
from student_trainer.types import ShardTask, WorkerReady

_log = logging.getLogger(__name__)

DEPTH = 2
# A shard that was being run when so many workers died is the likely reason.
KILLS_ALLOWED = 2
STARTS_ALLOWED = 3


@dataclass(eq=False)
class ShardHandle:
    """A shard on its way.

    Attributes:
        weights: reference to the list that holds the reference of its version's weights.
        receipt: of the call that runs it now; None while it waits for a worker.
        shard: reference of the scored shard, once ``done``.
        error: what running it came to instead; raised when its batch is asked for.
        kills: workers that died while running it.
    """

    task: ShardTask
    weights: Ref
    receipt: Ref | None = None
    shard: Ref | None = None
    done: bool = False
    error: Exception | None = None
    kills: int = 0


@dataclass(eq=False)
class _Worker:
    """An actor, and the shards it was given, oldest first; it runs the first of them."""

    actor: Any
    preparing: Ref | None
    number: int
    ready: WorkerReady | None = None
    shards: deque[ShardHandle] = field(default_factory=deque)


class WorkerPool:
    """A fixed number of workers behind one queue, in order of batches."""

    def __init__(self, start: Callable[[], Any], count: int) -> None:
        """Start the workers.

        Args:
            start: a new actor with ``prepare`` and ``run``.
        """
        self._start = start
        self._numbers = itertools.count()
        self._failed_starts = 0
        self._fit: Fit | None = None
        self._waiting: list[tuple[int, int, int, ShardHandle]] = []
        self._tickets = itertools.count()
        self._workers = [self._new_worker() for _ in range(count)]

    def submit(self, task: ShardTask, weights: Ref) -> ShardHandle:
        """Queue a shard; returns at once."""
        handle = ShardHandle(task, weights)
        self._queue(handle)
        self._dispatch()
        return handle

    def wait_ready(self) -> None:
        """Return when every worker is ready for shards.

        Raises:
            Exception: what ``prepare`` raised.
        """
        while any(w.preparing is not None for w in self._workers):
            self._turn()

    def wait_for(self, handles: Sequence[ShardHandle]) -> None:
        """Return when these shards are written and scored.

        Raises:
            Exception: what running the first failed one of them raised, as itself.
        """
        while not all(h.done or h.error for h in handles):
            self._turn()
        for handle in handles:
            if handle.error is not None:
                raise handle.error

    def serve_until(self, ref: Ref) -> None:
        """Return when another call has ended, well or not; meanwhile shards go on."""
        while not self._turn(ref):
            pass

    def rerun(self, handle: ShardHandle) -> None:
        """The scored shard was lost with the node that held it: have it made again."""
        handle.done, handle.shard = False, None
        self._queue(handle)
        self._dispatch()

    def processes(self) -> list[int]:
        """Process ids of the workers that are ready, in the order they were started."""
        return [w.ready.pid for w in self._workers if w.ready is not None]

    @property
    def fit(self) -> Fit:
        """Training sentences longer than the student's limits: the same for every worker."""
        assert self._fit is not None, "no worker was ready yet"
        return self._fit

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []

    def _queue(self, handle: ShardHandle) -> None:
        task = handle.task
        heapq.heappush(self._waiting, (task.batch, task.shard, next(self._tickets), handle))

    def _dispatch(self) -> None:
        """Give waiting shards to the least loaded workers, as many as they may hold."""
        while self._waiting:
            worker = min(self._workers, key=lambda w: (len(w.shards), w.number))
            if len(worker.shards) >= DEPTH:
                return
            handle = heapq.heappop(self._waiting)[-1]
            receipt, shard = worker.actor.run.remote(handle.task, handle.weights)
            handle.receipt, handle.shard = receipt, shard
            worker.shards.append(handle)

    def _turn(self, ref: Ref | None = None) -> bool:
        """Wait for whatever comes first and deal with all that is there; whether ``ref`` is."""
        watched = [w.preparing for w in self._workers if w.preparing is not None]
        watched += [h.receipt for w in self._workers for h in w.shards if h.receipt is not None]
        refs = [ref, *watched] if ref is not None else watched
        ray.wait(refs, num_returns=1)
        found, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        ready = set(found)
        for worker in list(self._workers):
            self._look_at(worker, ready)
        self._dispatch()
        return ref is not None and ref in ready

    def _look_at(self, worker: _Worker, ready: set[Ref]) -> None:
        """Take in what this worker finished, in the order it did."""
        if worker.preparing is not None and worker.preparing in ready:
            try:
                worker.ready = value_of(worker.preparing)
                self._fit = worker.ready.fit
            except RayActorError as error:
                self._replace(worker, error)
                return
            worker.preparing, self._failed_starts = None, 0
        while worker.shards:
            handle = worker.shards[0]
            if handle.receipt is None or handle.receipt not in ready:
                return
            try:
                value_of(handle.receipt)
                handle.done = True
            except Exception as error:
                if isinstance(error, RayActorError) and _died(worker.actor, error):
                    self._replace(worker, error)
                    return
                handle.error = error
            handle.receipt = None
            worker.shards.popleft()

    def _replace(self, dead: _Worker, reason: RayActorError) -> None:
        """Start another worker; the dead one's shards wait again.

        Raises:
            UserError: workers die before they are ready.
        """
        # Where the process is only out of reach: it must not go on in secret.
        ray.kill(dead.actor)
        self._workers.remove(dead)
        if dead.preparing is not None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS_ALLOWED:
                raise UserError(
                    f"{self._failed_starts} rollout workers died while starting "
                    f"({first_line(reason)}); give the machine more memory or lower workers"
                ) from reason
        elif dead.shards:
            self._blame(dead.shards[0], reason)
        for handle in dead.shards:
            handle.receipt = handle.shard = None
            if handle.error is None:
                self._queue(handle)
        again = ", ".join(str(h.task) for h in dead.shards if h.error is None)
        fresh = self._new_worker()
        self._workers.append(fresh)
        _log.warning(
            "rollout worker %d (process %s) died, worker %d takes its place; run again: %s",
            dead.number,
            dead.ready.pid if dead.ready else "not yet ready",
            fresh.number,
            again or "nothing",
        )

    def _blame(self, handle: ShardHandle, reason: RayActorError) -> None:
        """Count a death against the shard that was being run."""
        handle.kills += 1
        if handle.kills >= KILLS_ALLOWED:
            handle.error = UserError(
                f"{handle.task}: {handle.kills} workers died running it ({first_line(reason)}); "
                "look at its sentences and at the machine's memory, then continue with --resume"
            )
            handle.error.__cause__ = reason

    def _new_worker(self) -> _Worker:
        actor = self._start()
        return _Worker(actor, actor.prepare.remote(), next(self._numbers))


def _died(actor: Any, error: RayActorError) -> bool:
    """Whether it is this actor that died: a call also fails with the one that made its input."""
    return error.actor_id in (None, actor._actor_id.hex())


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
