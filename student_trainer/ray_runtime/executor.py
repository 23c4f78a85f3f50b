"""The executor over Ray: shards on rollout actors, steps on the learner's actor.

The driver's process sees tasks, receipts and reports. Scored shards go from the worker to the
learner and weights from the learner to the workers through the object store, each once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from pydantic import BaseModel
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from seq2seq.data import Fit
from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.ledger import note_death, read_toll
from student_trainer.ray_runtime import cluster, placement
from student_trainer.ray_runtime.actors import LearnerActor, RolloutActor
from student_trainer.ray_runtime.followers import Followers
from student_trainer.ray_runtime.inputs import offer_inputs
from student_trainer.ray_runtime.outcomes import value_of
from student_trainer.ray_runtime.pool import ShardHandle, WorkerPool
from student_trainer.ray_runtime.room import Room
from student_trainer.run_directory import RunDirectory
from student_trainer.scaling import requested_workers
from student_trainer.setup import prepare_vocabulary, student_bytes
from student_trainer.types import ShardTask, StepReport, ValidationReport
from teacher_service.errors import TeacherError

_log = logging.getLogger(__name__)
_LOST_ATTEMPTS = 3
Section = TypeVar("Section", bound=BaseModel)


@dataclass(eq=False)
class _Call:
    """Something asked of the learner that nobody has looked at yet.

    Attributes:
        ask: asks for it, again if need be.
        shards: what a step is made of; empty for other calls.
        lost: how often its shards were lost.
    """

    ask: Callable[[], cluster.Ref]
    shards: list[ShardHandle] = field(default_factory=list)
    lost: int = 0

    def __post_init__(self) -> None:
        self.again()

    def again(self) -> None:
        """Ask once more."""
        self.ref = self.ask()


class RayExecutor:
    """Implements :class:`~student_trainer.executor.Executor`."""

    def __init__(self, config: RunConfig, run: RunDirectory) -> None:
        """Start or join Ray, start learner and workers, and wait until they are ready.

        What workers need of corpus and vocabulary travels to them where they may be on other
        machines. The learner writes the run directory: where it does not run on the driver's
        machine that must be a shared one, and so must a score store, which workers read.

        Raises:
            UserError: no cluster, one that stays too small, or what the actors' set-up raises.
        """
        config, run = _absolute(config), run.absolute()
        vocabulary = prepare_vocabulary(config, run.path)
        # Versions in flight, those of a batch just done and of the next included, and the shards.
        versions = 3 + (config.rollout.lag + config.rollout.pool - 1) // config.rollout.pool
        store = cluster.OBJECT_STORE_BYTES + versions * student_bytes(config, vocabulary)
        self._run, self._wanted = run, config.workers
        self._versions: dict[int, cluster.Ref] = {}
        self._calls: deque[_Call] = deque()
        self._pool: WorkerPool | None = None
        self._learner: Any = None
        self._followers: Followers | None = None
        self._cluster = cluster.connect(store)
        try:
            self._start(config, run, vocabulary)
        except BaseException:
            self.close()
            raise

    def _start(self, config: RunConfig, run: RunDirectory, vocabulary: Vocabulary) -> None:
        place = placement.plan(config, *cluster.resources(), cluster.home())
        room = Room(place.demand, config.room_timeout_s)
        of_learner = config.model_copy(update={"device": place.learner_device})
        options = place.learner
        if config.learner_processes > 1:
            self._followers = Followers(of_learner, vocabulary, place, room)
            options = self._followers.leader_options
        self._learner = ray.remote(LearnerActor).options(**options).remote(of_learner, run)
        try:
            if place.learner["num_cpus"]:
                # It has its CPUs before workers ask for any.
                alive = self._learner.ping.remote()
                room.until(alive)
                value_of(alive)
            leading = self._followers.sent_to(self._learner) if self._followers else None
        except RayActorError as error:
            raise _learner_died(error) from error
        preparing = self._learner.prepare.remote(leading)
        shared, inputs = ray.put(config), offer_inputs(config, vocabulary, run.path)
        worker = ray.remote(RolloutActor).options(**place.worker)
        self._pool = WorkerPool(
            lambda: worker.remote(shared, run.path, inputs),
            config.workers,
            config.rollout.quarantine,
            at_start=config.workers_at_start,
            on_death=lambda shards: note_death(run, shards),
        )
        self._pool.wait_ready(room.look)
        if self._followers is not None:
            self._followers.wait_ready()
        self._wait(preparing)

    @property
    def fit(self) -> Fit:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._workers.ready.fit

    @property
    def plan(self) -> str:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._workers.ready.plan

    def restore(self) -> tuple[int, dict[str, Any] | None]:
        """See :class:`~student_trainer.executor.Executor`."""
        steps, extra, versions = self._wait(self._learner.restore.remote())
        self._workers.remember(read_toll(self._run, steps))
        for version in versions:
            self._versions[version] = self._learner.weights.remote(version)
        return steps, extra

    def submit(self, task: ShardTask) -> ShardHandle:
        """See :class:`~student_trainer.executor.Executor`."""
        return self._workers.submit(task, self._versions[task.version])

    def ready(self, handles: Sequence[object]) -> bool:
        """See :class:`~student_trainer.executor.Executor`."""
        return all(isinstance(h, ShardHandle) and h.done for h in handles)

    def hand_over(self, handles: Sequence[object]) -> None:
        """Wait for the shards; the learner fetches them from where they are.

        Raises:
            UserError: a shard killed its workers.
            TeacherError: the teacher stayed away; named is the shard.
        """
        shards = [h for h in handles if isinstance(h, ShardHandle)]
        self._follow_request()
        self._await_shards(shards)
        step = self._learner.step
        self._calls.append(_Call(lambda: step.remote(*[h.shard for h in shards]), shards))

    def _await_shards(self, shards: Sequence[ShardHandle]) -> None:
        try:
            self._workers.wait_for(shards)
        except RayError as error:
            # Weights are lost with the learner, and a shard may be the first to miss them.
            self._calls.clear()
            self._wait(self._learner.ping.remote())
            raise _ray_fault(error) from error

    def finished(self) -> StepReport:
        """See :class:`~student_trainer.executor.Executor`.

        Raises:
            UserError: the loss is not finite, the learner died.
            TeacherError: a shard was to be made again, and the teacher stayed away.
        """
        while True:
            call = self._calls[0]
            try:
                found = self._result(call.ref)
            except (ObjectLostError, RayTaskError) as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if not isinstance(cause, ObjectLostError) or not call.shards:
                    raise
                call.lost += 1
                if call.lost == _LOST_ATTEMPTS:
                    raise _ray_fault(cause) from error
                self._ask_again()
                continue
            self._calls.popleft()
            if call.shards:
                return _with_places(found, call.shards, len(self._workers.processes()))

    def _ask_again(self) -> None:
        """A node took finished shards with it. The step did not begin without them, and the learner
        takes neither the next one nor a version in its place."""
        for handle in self._calls[0].shards:
            self._workers.rerun(handle)
        try:
            self._await_shards(self._calls[0].shards)
        except TeacherError:
            self._calls.clear()  # nothing of it was done, and what was done is to be saved
            raise
        for call in self._calls:
            call.again()

    def publish(self, version: int) -> None:
        """See :class:`~student_trainer.executor.Executor`; does not wait for the learner."""

        def ask() -> cluster.Ref:
            self._versions[version] = self._learner.publish.remote(version)
            return self._versions[version]

        self._calls.append(_Call(ask))

    def published(self) -> list[int]:
        """See :class:`~student_trainer.executor.Executor`."""
        return sorted(self._versions)

    def retire(self, before: int) -> None:
        """Shards under way keep what they need; the rest is freed."""
        old = [v for v in self._versions if v < before]
        if old:
            self._calls.append(_Call(lambda: self._learner.retire.remote(before)))
        for version in old:
            del self._versions[version]

    def validate(self) -> ValidationReport:
        """See :class:`~student_trainer.executor.Executor`; workers go on meanwhile."""
        return self._wait(self._learner.validate.remote())

    def checkpoint(self, extra: dict[str, Any]) -> None:
        """See :class:`~student_trainer.executor.Executor`."""
        self._wait(self._learner.checkpoint.remote(extra))

    def close(self) -> None:
        """End the actors; leave Ray, or stop it where it was started here."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._learner is not None:
            ray.kill(self._learner)
            self._learner = None
        if self._followers is not None:
            self._followers.close()
            self._followers = None
        self._versions.clear()
        self._calls.clear()
        self._cluster.close()

    def worker_processes(self) -> list[int]:
        """Process ids of the rollout workers that are ready."""
        return self._workers.processes()

    def _follow_request(self) -> None:
        """Resize the pool where somebody asked for another number of workers.

        Raises:
            UserError: see :func:`~student_trainer.scaling.requested_workers`.
        """
        wanted = requested_workers(self._run) or self._wanted
        if wanted != self._wanted:
            _log.info("asked for %d rollout workers instead of %d", wanted, self._wanted)
            self._wanted = wanted
            self._workers.resize(wanted)

    @property
    def _workers(self) -> WorkerPool:
        assert self._pool is not None, "the executor is closed"
        return self._pool

    def _wait(self, ref: cluster.Ref) -> Any:
        """A result of the learner, and first those of the calls before it that nobody looked at.

        Raises:
            Exception: what the learner raised, as itself.
            UserError: the learner's process died.
        """
        while self._calls:
            self._result(self._calls[0].ref)
            self._calls.popleft()
        return self._result(ref)

    def _result(self, ref: cluster.Ref) -> Any:
        self._workers.serve_until(ref)
        try:
            return value_of(ref)
        except RayActorError as error:
            raise _learner_died(error) from error


def _ray_fault(error: RayError) -> UserError:
    return UserError(f"Ray failed ({cluster.first_line(error)}); continue with --resume")


def _learner_died(error: RayActorError) -> UserError:
    return UserError(
        f"the learner's process died ({cluster.first_line(error)}); look at the machine's memory, "
        "then continue with --resume"
    )


def _with_places(report: StepReport, handles: Sequence[ShardHandle], workers: int) -> StepReport:
    """The learner's report with what only the pool knows."""
    pairs = zip(report.shards, handles, strict=True)
    shards = tuple(replace(s, attempts=handle.attempts, host=handle.host) for s, handle in pairs)
    return replace(report, shards=shards, workers=workers)


def _absolute(section: Section) -> Section:
    """The same configuration with absolute paths: actors may have another working directory."""
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            changes[name] = value.resolve()
        elif isinstance(value, dict):
            resolved = {k: v.resolve() if isinstance(v, Path) else v for k, v in value.items()}
            changes[name] = resolved
        elif isinstance(value, BaseModel):
            changes[name] = _absolute(value)
    return section.model_copy(update=changes)
