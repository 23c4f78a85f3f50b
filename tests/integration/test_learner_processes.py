"""A learner of two real processes: the curve of one, resumed, and one of the two killed.

Every run takes the labels of a served teacher. What is compared across numbers of processes has the
student write nothing: a sum in another order could turn a word, and then a sentence.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seq2seq.errors import UserError
from student_trainer.config import RunConfig, make_config
from student_trainer.driver import Driver
from student_trainer.executor import Executor
from student_trainer.ledger_check import check_ledger
from student_trainer.ray_runtime.executor import RayExecutor
from student_trainer.run_directory import RunDirectory
from student_trainer.training import make_executor, train
from student_trainer.types import ShardTask
from teacher_service.server import ServerThread
from tests.run_outcome import Losses, last_checkpoint, losses_of
from tests.unit.teacher_service.support import tiny_config

STEPS = 10
GONE = r"a process of the learner died, or gave no answer .*--resume"


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path) -> Iterator[str]:
    config = tiny_config(tiny_teacher, batch_tokens=4096, deterministic=True)
    with ServerThread(config) as server:
        yield server.address


@pytest.fixture
def config_of(plain_config: dict[str, Any], teacher: str) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        plain = plain_config | {
            "method": "word-kd",
            "teacher": {"address": teacher, "timeout_s": 120.0},
            "learner_processes": 2,
            "checkpoint_every": 6,
        }
        plain["optimiser"] = plain["optimiser"] | {"steps": STEPS, "average": 0.9}
        return make_config(plain | changes)

    return make


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def test_two_processes_give_the_curve_of_one(config_of, plain_config, tmp_path):
    model = plain_config["model"] | {"dropout": 0.0}
    for name, processes in {"two": 2, "one": 1}.items():
        train(config_of(learner_processes=processes, model=model), tmp_path / name)
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == STEPS and len(set(one)) == STEPS
    assert two == pytest.approx(one, rel=1e-5)
    account = check_ledger(RunDirectory(tmp_path / "two"))
    assert account.holds and account.batches == STEPS
    assert not multiprocessing.active_children()


def _loses_a_process(executor: Executor) -> None:
    """What an actor's death comes to: the next step says so."""
    assert isinstance(executor, RayExecutor) and executor._followers is not None
    kill(*executor._followers.processes())
    newest = executor.published()[-1]
    handles = [executor.submit(ShardTask(STEPS, j, newest, 0.5)) for j in range(2)]
    executor.hand_over(handles)
    with pytest.raises(UserError, match=GONE):
        executor.finished()


def test_killed_and_resumed_it_ends_as_ray_does_undisturbed(ray_cluster, config_of, tmp_path):
    """Student's text, dropout, a pool of versions; a child killed at step 8, resumed from step 6.

    That run of children and the run of actors come to the same bits.
    """
    changes = {"method": "imitkd-full", "rollout": {"pool": 2, "lag": 2, "limit": {"cap": 16}}}
    config = config_of(**changes)
    run = RunDirectory(tmp_path / "killed")
    run.create("", resume=False)
    executor = make_executor(config, run)
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    begun = Losses(8, lambda: kill(child.pid or 0))
    with contextlib.closing(executor), pytest.raises(UserError, match=GONE):
        Driver(config, executor, [begun]).run()
    assert len(begun.found) == 8 and not multiprocessing.active_children()
    executor = make_executor(config, run)
    rest = Losses()
    with contextlib.closing(executor):
        start, _ = executor.restore()
        Driver(config, executor, [rest]).run(start)
    assert start == 6 and rest.found[:2] == begun.found[6:]

    actors = RunDirectory(tmp_path / "actors")
    in_ray = config_of(runtime="ray", workers=1, **changes)
    executor = make_executor(in_ray, actors)
    followed = Losses()
    with contextlib.closing(executor):
        Driver(in_ray, executor, [followed]).run()
        _loses_a_process(executor)
    assert followed.found == begun.found[:6] + rest.found
    assert last_checkpoint(actors.path) == last_checkpoint(run.path)
