"""The pool of workers with actors that do nothing but what the test tells them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from seq2seq.data import Fit
from seq2seq.errors import UserError
from student_trainer.ledger import Toll
from student_trainer.ray_runtime import pool as pool_module
from student_trainer.ray_runtime.outcomes import value_of
from student_trainer.ray_runtime.pool import ShardHandle, WorkerPool
from student_trainer.sizing import DEPTH
from student_trainer.types import ShardTask, WorkerReady
from teacher_service.errors import TeacherMismatch

pytestmark = pytest.mark.usefixtures("ray_cluster")


def task(batch: int, shard: int = 0) -> ShardTask:
    return ShardTask(batch, shard, 0, 0.5)


@pytest.fixture
def pool_of() -> Iterator[Callable[..., WorkerPool]]:
    """A pool whose workers run ``work(worker number, batch)`` and ``begin(number)`` before."""
    pools = []

    def make(
        count: int,
        work: Callable[[int, int], Any] = lambda number, batch: (number, batch),
        begin: Callable[[int], None] = lambda number: None,
        quarantine: int = 0,
        side_by_side: int = 1,
        at_start: int | None = None,
        on_death: Callable[[Any], None] = lambda shards: None,
    ) -> WorkerPool:
        # A class of this function travels to the workers by value; this module is not theirs.
        class Scripted:
            def __init__(self, number: int) -> None:
                self._number = number

            def prepare(self) -> WorkerReady:
                begin(self._number)
                return WorkerReady(os.getpid(), Fit(3, 2), plan="p", host=f"host{self._number}")

            @ray.method(num_returns=2)
            def run(self, task: Any, weights: object) -> tuple[Any, Any]:
                return task, work(self._number, task.batch)

        numbers = iter(range(100))
        actor = ray.remote(Scripted).options(num_cpus=0, max_concurrency=side_by_side)
        pool = WorkerPool(
            lambda: actor.remote(next(numbers)), count, quarantine, at_start, on_death
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def submit(pool: WorkerPool, *tasks: ShardTask) -> list[ShardHandle]:
    weights = ray.put([])
    return [pool.submit(t, weights) for t in tasks]


def results(handles: list[ShardHandle]) -> list[Any]:
    return [value_of(h.shard) for h in handles if h.shard is not None]


def test_shards_come_back_and_every_worker_had_some(pool_of):
    pool = pool_of(2)
    pool.wait_ready()
    assert len(set(pool.processes())) == 2
    assert (pool.ready.fit, pool.ready.plan) == (Fit(3, 2), "p")
    handles = submit(pool, *(task(b) for b in range(4)))
    pool.wait_for(handles)
    assert [batch for _, batch in results(handles)] == [0, 1, 2, 3]
    assert {number for number, _ in results(handles)} == {0, 1}


def test_a_slow_worker_keeps_nobody_waiting(pool_of, tmp_path):
    gate = tmp_path / "open"

    def work(number: int, batch: int) -> int:
        while number == 0 and not os.path.exists(gate):
            time.sleep(0.01)
        return number

    pool = pool_of(2, work)
    pool.wait_ready()
    handles = submit(pool, *(task(b) for b in range(9)))
    of_slow = [h for h in handles if h.receipt is not None][0::2]
    rest = [h for h in handles if h not in of_slow]
    pool.wait_for(rest)
    assert not any(h.done for h in of_slow)
    gate.touch()
    pool.wait_for(handles)
    assert results(of_slow) == [0] * DEPTH
    assert results(rest) == [1] * (9 - DEPTH)


def test_earlier_batches_go_first_whatever_the_order_of_asking(pool_of):
    seen: list[int] = []

    def work(number: int, batch: int) -> list[int]:
        seen.append(batch)
        return list(seen)

    # The worker is not ready yet: the queue keeps them all.
    pool = pool_of(1, work)
    handles = submit(pool, *(task(b) for b in (9, 8, 3, 1, 2)))
    pool.wait_for(handles)
    assert max(results(handles), key=len) == [1, 2, 3, 8, 9]


def test_a_death_is_made_good_by_another_worker(pool_of, tmp_path, caplog):
    died = tmp_path / "died"

    def work(number: int, batch: int) -> int:
        if batch == 2 and not os.path.exists(died):
            open(died, "w").close()
            time.sleep(0.3)  # what the process answered before leaves first
            os._exit(9)
        return batch

    pool = pool_of(2, work)
    handles = submit(pool, *(task(b) for b in range(6)))
    pool.wait_for(handles)
    assert results(handles) == list(range(6))
    assert handles[2].kills == 1 and handles[2].attempts == 2
    (message,) = [r.getMessage() for r in caplog.records]
    assert "died, worker 2 takes its place; run again: batch 2 shard 0" in message


def killing() -> Callable[[int, int], int]:
    """Batch 3 kills whoever runs it; a function of this one travels to the workers by value."""

    def work(number: int, batch: int) -> int:
        if batch == 3:
            time.sleep(0.3)  # what the process answered before leaves first
            os._exit(9)
        time.sleep(0.02)
        return batch

    return work


@pytest.mark.parametrize("side_by_side", [1, DEPTH])
def test_a_shard_that_kills_two_workers_is_left_out_and_the_others_are_done(
    pool_of, caplog, side_by_side
):
    """Whatever ran beside it when the first worker died is not blamed for the second."""
    pool = pool_of(2, killing(), quarantine=1, side_by_side=side_by_side)
    handles = submit(pool, *(task(b) for b in range(8)))
    pool.wait_for(handles)
    assert [b for b in results(handles) if isinstance(b, int)] == [0, 1, 2, 4, 5, 6, 7]
    (left,) = [r for r in results(handles) if not isinstance(r, int)]
    assert (left.batch, left.shard, left.quarantined, len(left.targets)) == (3, 0, True, 0)
    assert handles[3].kills == 2 and all(h.kills <= 1 for h in handles if h is not handles[3])
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert message.startswith("batch 3 shard 0: 2 workers died running it")
    pool.wait_ready()
    assert len(pool.processes()) == 2


def test_one_shard_too_many_is_an_error_that_names_it(pool_of):
    pool = pool_of(2, killing())
    handles = submit(pool, *(task(b) for b in range(8)))
    others = [h for h in handles if h.task.batch != 3]
    pool.wait_for(others)
    assert results(others) == [0, 1, 2, 4, 5, 6, 7]
    with pytest.raises(UserError, match=r"batch 3 shard 0: 2 workers died .*rollout.quarantine"):
        pool.wait_for(handles)


def test_what_earlier_processes_saw_counts(pool_of):
    """One more death is enough, and what they left out is left out of this one's allowance."""
    noted: list[list[ShardTask]] = []
    pool = pool_of(2, killing(), quarantine=2, on_death=noted.append)
    pool.remember(Toll({(3, 0): 4, (5, 0): 1}, left_out=1))
    handles = submit(pool, *(task(b) for b in range(8)))
    assert [h.kills for h in handles] == [0, 0, 0, 1, 0, 1, 0, 0]
    pool.wait_for(handles)
    assert handles[3].attempts == 1 and noted == [[task(3)]]
    assert [b for b in results(handles) if isinstance(b, int)] == [0, 1, 2, 4, 5, 6, 7]
    (again,) = submit(pool, task(3, 1))
    with pytest.raises(UserError, match="no more shards may be left out"):
        pool.wait_for([again])


def test_no_shard_is_blamed_for_a_lost_machine(pool_of, monkeypatch):
    pool = pool_of(1, killing())
    lost = {"NodeID": "gone", "Alive": False}
    monkeypatch.setattr(pool_module.ray, "nodes", lambda: [lost])
    pool.wait_ready()
    first = pool._workers[0]
    first.ready = dataclasses.replace(first.ready, node="gone")
    (handle,) = submit(pool, task(3))
    while pool._workers[0] is first:
        pool._turn()
    assert (handle.kills, handle.attempts) == (0, 1)


def test_a_worker_that_gets_room_later_takes_shards_from_then_on(pool_of, tmp_path):
    """The second one waits, as it would in Ray for a machine to join."""
    gate, hold = tmp_path / "open", tmp_path / "hold"

    def begin(number: int) -> None:
        while number == 1 and not os.path.exists(gate):
            time.sleep(0.01)

    def work(number: int, batch: int) -> int:
        while number == 0 and os.path.exists(hold):
            time.sleep(0.01)
        return number

    pool = pool_of(2, work, begin, at_start=1)
    pool.wait_ready()
    assert len(pool.processes()) == 1
    alone = submit(pool, *(task(b) for b in range(4)))
    pool.wait_for(alone)
    assert results(alone) == [0] * 4 and {h.host for h in alone} == {"host0"}
    hold.touch()
    together = submit(pool, *(task(b) for b in range(4, 10)))
    gate.touch()
    while not any(h.done for h in together):
        pool._turn()
    hold.unlink()
    pool.wait_for(together)
    assert set(results(together)) == {0, 1}
    assert {h.host for h in together} == {"host0", "host1"}


def test_a_pool_grows_and_shrinks_and_loses_nothing(pool_of, tmp_path):
    gate = tmp_path / "open"

    def work(number: int, batch: int) -> tuple[int, int]:
        while batch < 6 and not os.path.exists(gate):
            time.sleep(0.01)
        return number, batch

    pool = pool_of(1, work)
    pool.wait_ready()
    handles = submit(pool, *(task(b) for b in range(12)))
    pool.resize(3)
    while len(pool.processes()) < 3:
        pool._turn()
    assert {h.host for h in handles if h.receipt} == {"host0", "host1", "host2"}
    pool.resize(1)
    assert len(pool.processes()) == 3, "they hold shards"
    gate.touch()
    pool.wait_for(handles)
    assert sorted(batch for _, batch in results(handles)) == list(range(12))
    assert all(h.attempts == 1 for h in handles)
    assert [w.number for w in pool._workers] == [0]
    assert {number for number, batch in results(handles) if batch >= 9} == {0}


def test_those_that_wait_for_room_are_let_go_first_and_at_once(pool_of):
    def begin(number: int) -> None:
        while number:
            time.sleep(0.01)

    pool = pool_of(3, begin=begin, at_start=1)
    pool.wait_ready()
    pool.resize(1)
    assert [w.number for w in pool._workers] == [0]


def test_one_that_dies_while_it_leaves_has_no_heir(pool_of, tmp_path):
    gate = tmp_path / "open"

    def work(number: int, batch: int) -> int:
        while not os.path.exists(gate):
            time.sleep(0.01)
        if number == 1:
            os._exit(9)
        return number

    pool = pool_of(2, work)
    pool.wait_ready()
    handles = submit(pool, task(0), task(1))
    pool.resize(1)
    gate.touch()
    pool.wait_for(handles)
    assert results(handles) == [0, 0] and [w.number for w in pool._workers] == [0]


def test_machines_lost_while_workers_start_on_them_do_not_end_it(pool_of, tmp_path, monkeypatch):
    """Four deaths in a row, each with its machine; the fifth worker is well."""
    nodes: list[dict[str, Any]] = []
    monkeypatch.setattr(pool_module.ray, "nodes", lambda: nodes)

    def begin(number: int) -> None:
        if number < 4:
            while not os.path.exists(tmp_path / str(number)):
                time.sleep(0.01)
            os._exit(9)

    pool = pool_of(1, begin=begin)
    for number in range(4):
        nodes.append({"NodeID": str(number), "Alive": False})
        (tmp_path / str(number)).touch()
        while pool._workers[0].number == number:
            pool._turn()
    pool.wait_ready()
    assert pool._workers[0].number == 4


def test_workers_that_die_before_they_are_ready_end_it(pool_of):
    def begin(number: int) -> None:
        os._exit(9)

    pool = pool_of(1, begin=begin)
    handles = submit(pool, task(0))
    with pytest.raises(UserError, match="3 rollout workers died while starting"):
        pool.wait_for(handles)
    assert handles[0].kills == 0


def test_a_fault_in_preparation_is_raised_as_itself(pool_of):
    def begin(number: int) -> None:
        raise UserError("corpus gone")

    with pytest.raises(UserError, match=r"^corpus gone$"):
        pool_of(2, begin=begin).wait_ready()


def test_an_error_waits_for_its_turn_and_is_itself(pool_of):
    def work(number: int, batch: int) -> int:
        if batch == 1:
            raise TeacherMismatch("another teacher")
        return batch

    pool = pool_of(1, work)
    handles = submit(pool, *(task(b) for b in range(3)))
    pool.wait_for([handles[2]])
    pool.wait_for([handles[0]])
    with pytest.raises(TeacherMismatch) as caught:
        pool.wait_for(handles[:2])
    assert str(caught.value) == "another teacher"
    assert "work" in str(caught.value.__cause__), "the remote traceback is kept"
    pickle.loads(pickle.dumps(caught.value))


def test_the_death_of_who_made_the_weights_is_not_blamed_on_the_shard(pool_of):
    class Maker:
        def make(self) -> list[int]:
            os._exit(9)

    maker = ray.remote(Maker).options(num_cpus=0).remote()
    pool = pool_of(1)
    pool.wait_ready()
    before = pool.processes()
    handle = pool.submit(task(0), maker.make.remote())
    with pytest.raises(ray.exceptions.RayError):
        pool.wait_for([handle])
    assert handle.kills == 0 and pool.processes() == before


def test_shards_go_on_while_another_call_is_waited_for(pool_of, tmp_path):
    class Learner:
        def step(self, gate: Path) -> str:
            while not gate.exists():
                time.sleep(0.01)
            return "stepped"

    gate = tmp_path / "open"

    def work(number: int, batch: int) -> int:
        if batch == 9:
            open(gate, "w").close()
        return batch

    learner = ray.remote(Learner).options(num_cpus=0).remote()
    pool = pool_of(1, work)
    handles = submit(pool, *(task(b) for b in range(10)))
    # Only the last of ten shards lets the step end: all were handed out meanwhile.
    step = learner.step.remote(gate)
    pool.serve_until(step)
    assert value_of(step) == "stepped"
    pool.wait_for(handles)
