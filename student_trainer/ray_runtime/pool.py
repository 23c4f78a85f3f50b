"""Gives shards to workers, and runs them again where a worker died.

Owned by the driver's thread; nothing runs in the background. Waits for: receipts of shards, new
workers getting ready, and the one reference its caller waits for. Unblocked by: any of them.

A worker holds at most ``DEPTH`` shards: one that the student writes, one that the teacher scores,
and the next one at hand; a slow worker keeps nobody waiting. What a shard holds does not depend on
who runs it, nor on what is run beside it.

A worker that dies leaves its shards to others. Which of them killed it nobody can say, so each is
from then on run by a worker that has nothing else. One that such a worker dies of is quarantined:
it is left out, and named. What earlier processes of the run saw of it counts: a shard that a worker
died with is alone from the start when the run goes on.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from seq2seq.errors import UserError
from student_trainer.ledger import Toll
from student_trainer.ray_runtime.cluster import Ref, first_line
from student_trainer.ray_runtime.outcomes import died, lost_with_node, machines_lost, value_of
from student_trainer.ray_runtime.room import LOOK_S
from student_trainer.sizing import DEPTH
from student_trainer.types import ScoredShard, ShardTask, WorkerReady

_log = logging.getLogger(__name__)

# The first time there may have been others beside it, the second time it was alone.
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
        kills: workers that died while they held it.
        attempts: how often it was handed to a worker.
        host: name of the machine it was handed to last.
    """

    task: ShardTask
    weights: Ref
    receipt: Ref | None = None
    shard: Ref | None = None
    done: bool = False
    error: Exception | None = None
    kills: int = 0
    attempts: int = 0
    host: str = ""


@dataclass(eq=False)
class _Worker:
    """An actor, and the shards it was given, oldest first.

    Attributes:
        losses: machines the cluster had lost when the actor was asked for.
        leaving: gets no more shards, and goes when it has none.
    """

    actor: Any
    preparing: Ref | None
    number: int
    losses: int
    ready: WorkerReady | None = None
    shards: list[ShardHandle] = field(default_factory=list)
    leaving: bool = False

    def takes(self, handle: ShardHandle) -> bool:
        """Whether there is room; a shard under suspicion is alone with its worker."""
        if self.leaving or self.preparing is not None or any(h.kills for h in self.shards):
            return False
        return len(self.shards) < (1 if handle.kills else DEPTH)


class WorkerPool:
    """Workers behind one queue, in order of batches.

    All are asked for at once. One that the cluster has no room for waits in Ray until a machine
    joins, and takes shards from then on; one that goes with its machine is asked for anew.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        count: int,
        quarantine: int = 0,
        at_start: int | None = None,
        on_death: Callable[[Sequence[ShardTask]], None] = lambda shards: None,
    ) -> None:
        """Ask for the workers.

        Args:
            start: a new actor with ``prepare`` and ``run``.
            quarantine: how many shards may be left out before it is an error.
            at_start: how many :meth:`wait_ready` waits for; None: all.
            on_death: told the shards that a dead worker held, if they may have killed it.
        """
        self._start = start
        self._at_start = count if at_start is None else at_start
        self._numbers = itertools.count()
        self._failed_starts = 0
        self._ready: WorkerReady | None = None
        self._quarantine, self._on_death = quarantine, on_death
        self._suspects: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[int, int, int, ShardHandle]] = []
        self._tickets = itertools.count()
        self._workers = [self._new_worker() for _ in range(count)]

    def submit(self, task: ShardTask, weights: Ref) -> ShardHandle:
        """Queue a shard; returns at once."""
        kills = self._suspects.pop((task.batch, task.shard), 0)
        handle = ShardHandle(task, weights, kills=kills)
        self._queue(handle)
        self._dispatch()
        return handle

    def remember(self, toll: Toll) -> None:
        """Go on from what earlier processes of the run saw; each suspect gets one more trial."""
        self._quarantine -= toll.left_out
        worst = KILLS_ALLOWED - 1
        self._suspects = {shard: min(kills, worst) for shard, kills in toll.deaths.items()}

    def wait_ready(self, waiting: Callable[[int], None] = lambda ready: None) -> None:
        """Return when the workers wanted at the start are ready for shards.

        Args:
            waiting: told how many are ready, now and then while it waits.

        Raises:
            Exception: what ``prepare`` or ``waiting`` raised.
        """
        while (ready := sum(w.preparing is None for w in self._workers)) < self._at_start:
            waiting(ready)
            self._turn(timeout_s=LOOK_S)

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

    def resize(self, count: int) -> None:
        """Ask for more workers, or let some go: those that wait for room and the youngest first,
        each when its shards are done."""
        staying = [w for w in self._workers if not w.leaving]
        self._workers += [self._new_worker() for _ in range(count - len(staying))]
        staying.sort(key=lambda w: (w.preparing is None, -w.number))
        for worker in staying[: max(0, len(staying) - count)]:
            worker.leaving = True
        self._let_go()
        self._dispatch()

    def rerun(self, handle: ShardHandle) -> None:
        """The scored shard was lost with the node that held it: have it made again. One that was
        left out is nowhere but here."""
        if handle.kills >= KILLS_ALLOWED:
            return
        handle.done, handle.shard = False, None
        self._queue(handle)
        self._dispatch()

    def processes(self) -> list[int]:
        """Process ids of the workers that are ready, in the order they were started."""
        return [w.ready.pid for w in self._workers if w.ready is not None]

    @property
    def ready(self) -> WorkerReady:
        """What the last worker to get ready said: but for the process the same for all."""
        assert self._ready is not None, "no worker was ready yet"
        return self._ready

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []

    def _queue(self, handle: ShardHandle) -> None:
        task = handle.task
        heapq.heappush(self._waiting, (task.batch, task.shard, next(self._tickets), handle))

    def _dispatch(self) -> None:
        """Give waiting shards, in their order, to the least loaded workers with room for them."""
        while self._waiting:
            handle = self._waiting[0][-1]
            workers = [w for w in self._workers if w.takes(handle)]
            if not workers:
                return
            worker = min(workers, key=lambda w: (len(w.shards), w.number))
            heapq.heappop(self._waiting)
            handle.receipt, handle.shard = worker.actor.run.remote(handle.task, handle.weights)
            handle.attempts += 1
            handle.host = worker.ready.host if worker.ready is not None else ""
            worker.shards.append(handle)

    def _turn(self, ref: Ref | None = None, timeout_s: float | None = None) -> bool:
        """Wait for whatever comes first and deal with all that is there; whether ``ref`` is."""
        watched = [w.preparing for w in self._workers if w.preparing is not None]
        watched += [h.receipt for w in self._workers for h in w.shards if h.receipt is not None]
        refs = [ref, *watched] if ref is not None else watched
        ray.wait(refs, num_returns=1, timeout=timeout_s)
        found, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        ready = set(found)
        for worker in list(self._workers):
            self._look_at(worker, ready)
        self._let_go()
        self._dispatch()
        return ref is not None and ref in ready

    def _let_go(self) -> None:
        """End the workers that are to leave and hold no shard."""
        for worker in [w for w in self._workers if w.leaving and not w.shards]:
            ray.kill(worker.actor)
            self._workers.remove(worker)

    def _look_at(self, worker: _Worker, ready: set[Ref]) -> None:
        """Take in what this worker finished."""
        if worker.preparing is not None and worker.preparing in ready:
            try:
                worker.ready = self._ready = value_of(worker.preparing)
            except RayActorError as error:
                self._replace(worker, error)
                return
            worker.preparing, self._failed_starts = None, 0
        death: RayActorError | None = None
        for handle in list(worker.shards):
            if handle.receipt is None or handle.receipt not in ready:
                continue
            try:
                value_of(handle.receipt)
                handle.done = True
            except Exception as error:
                if isinstance(error, RayActorError) and died(worker.actor, error):
                    death = error
                    continue
                handle.error = error
            handle.receipt = None
            worker.shards.remove(handle)
        if death is not None:
            self._replace(worker, death)

    def _replace(self, dead: _Worker, reason: RayActorError) -> None:
        """Start another worker; the dead one's shards wait again.

        Raises:
            UserError: workers die before they are ready.
        """
        # Where the process is only out of reach: it must not go on in secret.
        ray.kill(dead.actor)
        self._workers.remove(dead)
        with_machine = dead.losses != machines_lost()
        if dead.preparing is not None and not with_machine:
            self._failed_starts += 1
            if self._failed_starts >= STARTS_ALLOWED:
                raise UserError(
                    f"{self._failed_starts} rollout workers died while starting "
                    f"({first_line(reason)}); give the machine more memory or lower workers"
                ) from reason
        again = []
        to_blame = not lost_with_node(dead.ready)
        if to_blame and dead.shards:
            self._on_death([handle.task for handle in dead.shards])
        for handle in dead.shards:
            handle.receipt = handle.shard = None
            handle.kills += to_blame
            if handle.kills >= KILLS_ALLOWED:
                self._set_aside(handle, reason)
            else:
                self._queue(handle)
                again.append(str(handle.task))
        heir = "nobody"
        if not dead.leaving:
            self._workers.append(self._new_worker())
            heir = f"worker {self._workers[-1].number}"
        # One that waited for room where a machine went is not worth a word: there may be many.
        waited = dead.preparing is not None and with_machine
        _log.log(
            logging.INFO if waited else logging.WARNING,
            "rollout worker %d (process %s) died, %s takes its place; run again: %s",
            dead.number,
            dead.ready.pid if dead.ready else "not yet ready",
            heir,
            ", ".join(again) or "nothing",
        )

    def _set_aside(self, handle: ShardHandle, reason: RayActorError) -> None:
        """Quarantine a shard; one too many is an error."""
        what = f"{handle.task}: {handle.kills} workers died running it ({first_line(reason)})"
        if self._quarantine > 0:
            self._quarantine -= 1
            handle.shard, handle.done = ray.put(ScoredShard.left_out(handle.task)), True
            _log.error("%s; it is left out of the run", what)
            return
        handle.error = UserError(
            f"{what}, and no more shards may be left out; look at its sentences and at the "
            "machine's memory, or raise rollout.quarantine, then continue with --resume"
        )
        handle.error.__cause__ = reason

    def _new_worker(self) -> _Worker:
        actor = self._start()
        return _Worker(actor, actor.prepare.remote(), next(self._numbers), machines_lost())
