"""Ray and inline train the same, bit by bit, and what dies on the way changes nothing.

The teacher is a server process of its own, asked over gRPC.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from imitkd.serving import serve_arguments, serving
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, dump_config, make_config
from student_trainer.driver import Driver
from student_trainer.ledger_check import check_ledger
from student_trainer.ray_runtime.actors import RolloutActor
from student_trainer.ray_runtime.executor import RayExecutor
from student_trainer.ray_runtime.inputs import offer_inputs
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import held
from student_trainer.scaling import request_workers
from student_trainer.setup import prepare_vocabulary
from student_trainer.training import make_executor, train
from student_trainer.training_data import make_data
from student_trainer.types import ShardTask
from teacher_service.errors import TeacherUnavailable
from tests.run_outcome import Losses, last_checkpoint, losses_of

STEPS = 10
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("served") / "log"
    arguments = [*serve_arguments(tiny_teacher, threads=1), "--deterministic"]
    with serving(arguments, log) as address:
        yield address


@pytest.fixture
def config_of(plain_config: dict[str, Any], teacher: str) -> Callable[..., RunConfig]:
    """ImitKD + Full over the served teacher, with ``section__key`` changes."""

    def make(**changes: Any) -> RunConfig:
        plain = plain_config | {
            "method": "imitkd-full",
            "teacher": {"address": teacher, "attempt_timeout_s": 60.0, "timeout_s": 120.0},
            "mixing": {"schedule": "exponential", "base": 20},
            "batch": {"sentences": 9, "shards": 3},
        }
        plain["optimiser"] = plain["optimiser"] | {"steps": STEPS, "average": 0.9}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            plain[section] = plain.get(section, {}) | {name: value} if name else value
        return make_config(plain)

    return make


def outcome(path: Path) -> tuple[list[float], bytes]:
    """Losses of all steps, and the last checkpoint: weights, moments, average, versions."""
    return losses_of(path), last_checkpoint(path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[list[float], bytes]]:
    """What the inline executor makes of a configuration, made once."""

    @functools.cache
    def of(saved: str) -> tuple[list[float], bytes]:
        path = tmp_path_factory.mktemp("inline") / "run"
        train(RunConfig.model_validate_json(saved), path)
        return outcome(path)

    return lambda config: of(
        config.model_copy(update={"runtime": "inline", "workers": 1}).model_dump_json(by_alias=True)
    )


def test_rows_kept_and_candidates_named_by_students_are_the_same_too(
    config_of, reference, tmp_path
):
    config = config_of(
        runtime="ray", workers=2, method="replay", loss__divergence="reverse-kl", rollout__pool=2
    )
    train(config, tmp_path / "run")
    assert outcome(tmp_path / "run") == reference(config)


@pytest.mark.parametrize(("pool", "lag", "workers"), [(1, 0, 3), (4, 0, 1), (4, 4, 3)])
def test_ray_gives_what_inline_gives(config_of, reference, tmp_path, pool, lag, workers):
    config = config_of(runtime="ray", workers=workers, rollout__pool=pool, rollout__lag=lag)
    train(config, tmp_path / "run")
    losses, checkpoint = outcome(tmp_path / "run")
    expected, expected_checkpoint = reference(config)
    assert len(losses) == STEPS and losses == expected
    assert checkpoint == expected_checkpoint
    account = check_ledger(RunDirectory(tmp_path / "run"))
    assert account.holds and account.hosts == {socket.gethostname(): 3 * STEPS}


def test_the_rules_give_different_runs(config_of, reference):
    """Otherwise the comparison above would show nothing."""
    runs = [
        tuple(reference(config_of(rollout__pool=pool, rollout__lag=lag))[0])
        for pool, lag in [(1, 0), (4, 0), (4, 4)]
    ]
    assert len(set(runs)) == 3


def test_a_killed_worker_changes_nothing(config_of, reference, tmp_path):
    config = config_of(runtime="ray", workers=2, rollout__pool=4, rollout__lag=4)
    executor = make_executor(config, RunDirectory(tmp_path))
    assert isinstance(executor, RayExecutor)
    with contextlib.closing(executor):
        before = executor.worker_processes()
        assert len(set(before)) == 2
        # Batches 4 to 7 are under way at step 4: the dead worker holds some of their shards.
        losses = Losses(4, lambda: os.kill(before[0], signal.SIGKILL))
        Driver(config, executor, [losses]).run()
        after = executor.worker_processes()
    assert before[0] not in after and before[1] in after
    assert losses.found == reference(config)[0]


@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(config_of, reference, tmp_path, runtime):
    """It stops at step 7, in the middle of a pool, and loses the two steps since its checkpoint."""
    config = config_of(
        runtime=runtime, rollout__pool=4, rollout__lag=4, checkpoint_every=5, learner_threads=2
    )

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    run = RunDirectory(tmp_path / "run")
    run.create("", resume=False)
    executor = make_executor(config, run)
    with contextlib.closing(executor), pytest.raises(Stopped):
        Driver(config, executor, [Losses(7, stop)], {"teacher_revision": None}).run()
    rest = Losses()
    executor = make_executor(config, run)
    with contextlib.closing(executor):
        start, _ = executor.restore()
        Driver(config, executor, [rest]).run(start)
    expected, expected_checkpoint = reference(config)
    assert start == 5 and rest.found == expected[5:]
    assert last_checkpoint(run.path) == expected_checkpoint


def lost_reference() -> ray.ObjectRef:
    """To a result that died with the process that owned it."""

    def never() -> None:
        threading.Event().wait()

    class Owner:
        def give(self) -> list[ray.ObjectRef]:
            return [ray.remote(never).options(num_cpus=0).remote()]

    owner = ray.remote(Owner).options(num_cpus=0).remote()
    (reference,) = ray.get(owner.give.remote())
    ray.kill(owner)
    return reference


def test_a_scored_shard_lost_with_its_node_is_made_again(config_of, reference, tmp_path):
    config = config_of(runtime="ray")
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        executor.publish(0)
        handles = [executor.submit(ShardTask(0, j, 0, 1.0)) for j in range(3)]
        executor._workers.wait_for(handles)
        handles[1].shard = lost_reference()
        executor.hand_over(handles)
        assert executor.finished().loss == reference(config)[0][0]


def test_what_was_handed_over_after_a_lost_shard_comes_after_its_step(
    config_of, reference, tmp_path
):
    config = config_of(runtime="ray", rollout__lag=4)
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        executor.publish(0)
        first, second = (
            [executor.submit(ShardTask(i, j, 0, 1.0)) for j in range(3)] for i in (0, 1)
        )
        executor._workers.wait_for([*first, *second])
        assert executor.ready(first) and executor.ready(second)
        first[1].shard = lost_reference()
        executor.hand_over(first)
        executor.publish(1)
        executor.hand_over(second)
        executor.publish(2)
        assert [executor.finished().loss for _ in (0, 1)] == reference(config)[0][:2]
        executor.checkpoint({})
        assert executor.published() == [0, 1, 2]
        held = [ray.get(ray.get(executor._versions[v])[0]) for v in (0, 1, 2)]
    for before, after in itertools.pairwise(held):
        assert any((before[name] != after[name]).any() for name in before)


def test_a_teacher_gone_while_a_lost_shard_is_made_again_leaves_a_checkpoint(config_of, tmp_path):
    config = config_of(
        runtime="ray",
        rollout__lag=4,
        teacher={"address": "unix:/nowhere/socket", "timeout_s": 0.2, "attempt_timeout_s": 0.1},
    )
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        executor.publish(0)
        handles = [executor.submit(ShardTask(0, j, 0, 1.0)) for j in range(3)]
        for handle in handles:  # as if they had been scored, on a node that is gone now
            handle.done, handle.error, handle.shard = True, None, lost_reference()
        executor.hand_over(handles)
        executor.publish(1)
        with pytest.raises(TeacherUnavailable):
            executor.finished()
        executor.checkpoint({})
    assert list((tmp_path / "checkpoints").iterdir())


def test_a_teacher_that_stays_away_stops_the_run_with_its_own_error(config_of, tmp_path):
    config = config_of(
        runtime="ray",
        teacher={"address": "unix:/nowhere/socket", "timeout_s": 0.2, "attempt_timeout_s": 0.1},
    )
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        executor.publish(0)
        handles = [executor.submit(ShardTask(0, j, 0, 0.0)) for j in range(3)]
        with pytest.raises(TeacherUnavailable, match=r"batch 0 shard 0: .*unix:/nowhere/socket"):
            executor.hand_over(handles)
        # The others came to the same; a checkpoint can still be written.
        executor.checkpoint({})
    assert list((tmp_path / "checkpoints").iterdir())


def test_a_full_disk_under_the_learner_comes_back_as_it_is(config_of, tmp_path):
    config = config_of(runtime="ray")
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        (tmp_path / "checkpoints").write_text("a file is in the way")
        with pytest.raises(UserError, match=r"cannot write .*step-000000000"):
            executor.checkpoint({})


def test_a_dead_learner_is_named_whoever_misses_it_first(config_of, tmp_path):
    config = config_of(runtime="ray", rollout__lag=4)
    with contextlib.closing(RayExecutor(config, RunDirectory(tmp_path))) as executor:
        executor.publish(0)
        executor.validate()
        ray.kill(executor._learner)
        handles = [executor.submit(ShardTask(0, j, 0, 0.0)) for j in range(3)]
        with pytest.raises(UserError, match=r"the learner's process died .*--resume"):
            executor.hand_over(handles)
            executor.finished()


def test_a_worker_needs_no_file_of_the_drivers(config_of, tmp_path, tiny_corpus):
    """Neither corpus nor vocabulary nor run directory: a machine that joins has none of them."""
    config = config_of(runtime="ray")
    vocabulary = prepare_vocabulary(config, tmp_path / "run")
    inputs = offer_inputs(config, vocabulary, tmp_path / "run", travel=True)
    nowhere = config.model_copy(
        update={
            "corpus": config.corpus.model_copy(update={"path": Path("/nowhere")}),
            "vocabulary": config.vocabulary.model_copy(update={"from_": Path("/nowhere")}),
        }
    )
    actor = ray.remote(RolloutActor).options(num_cpus=0).remote(nowhere, Path("/nowhere"), inputs)
    try:
        ready = ray.get(actor.prepare.remote())
    finally:
        ray.kill(actor)
    assert ready.plan == make_data(config, vocabulary).plan.digest
    assert ready.host == socket.gethostname()


def test_a_run_is_asked_for_more_workers_while_it_is_on(config_of, reference, tmp_path):
    config = config_of(runtime="ray", workers=1, rollout__pool=4, rollout__lag=4)
    run = RunDirectory(tmp_path / "run")
    with held(run.path) as run.fence:
        run.write_config(dump_config(config))
        with contextlib.closing(RayExecutor(config, run)) as executor:
            losses = Losses(3, lambda: request_workers(RunDirectory(run.path), 2))
            Driver(config, executor, [losses]).run()
            assert len(executor._workers._workers) == 2
    assert losses.found == reference(config)[0]


def test_a_fault_in_the_set_up_of_actors_is_the_users_own_line(config_of, tmp_path):
    gone = {"from": "gone", "encoder_layers": [0], "decoder_layers": [0]}
    with pytest.raises(UserError, match="gone is no model directory"):
        RayExecutor(config_of(runtime="ray", initialise=gone), RunDirectory(tmp_path))
