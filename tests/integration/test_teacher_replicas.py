"""Two replicas as processes of their own: one joins, drains, is killed, or hangs, in a stream of
calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from teacher_service import codec
from teacher_service.client import TeacherClient
from tests.unit.teacher_service.support import random_pairs, save_tiny_teacher

ARGMAX = codec.ArgmaxSpec("float32")
TOLERANCE = 1e-5  # other company in a batch moves a log-probability by about 2e-6
Call = tuple[list[list[int]], list[list[int]]]


class Replica:
    """``python -m teacher_service`` on a free port."""

    def __init__(self, model_dir: Path) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "teacher_service", str(model_dir)),
                *("--address", "127.0.0.1:0", "--threads", "1"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = ""

    def ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.address = event.get("address", self.address)
            if event["event"] == "serving":
                return
        raise AssertionError(f"it ended with status {self.process.wait()}")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Replica]]]:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    replicas: list[Replica] = []
    yield path, replicas
    for replica in replicas:
        replica.process.kill()
        replica.process.communicate()


@pytest.fixture
def pair(started: tuple[Path, list[Replica]]) -> list[Replica]:
    """Two living replicas; one that an earlier test killed is replaced."""
    path, replicas = started
    new = [Replica(path) for _ in range(2 - sum(r.process.poll() is None for r in replicas))]
    for replica in new:
        replica.ready()
    replicas += new
    return [r for r in replicas if r.process.poll() is None]


def calls(count: int) -> list[Call]:
    return [random_pairs(6, seed=n) for n in range(count)]


def check(call: Call, result: codec.ScoreResult, expected: codec.ScoreResult) -> None:
    """Every position once, in its place, with its value."""
    assert result.lengths_B.tolist() == [len(t) for t in call[1]]
    np.testing.assert_allclose(
        result.token_log_probs_P, expected.token_log_probs_P, atol=TOLERANCE, rtol=0
    )
    assert len(result.token_log_probs_P) == sum(len(t) for t in call[1])


def alone(replica: Replica, asked: list[Call]) -> list[codec.ScoreResult]:
    """The answers of one replica without the other."""
    with TeacherClient(replica.address, timeout_s=30) as client:
        return [client.score(*call, ARGMAX) for call in asked]


def test_a_hung_replica_is_passed_over_within_the_overall_deadline(pair: list[Replica]) -> None:
    """One attempt finds out that it hangs; until it answers again nobody else is sent there."""
    asked = calls(60)
    expected = alone(pair[0], asked)
    addresses = [r.address for r in pair]
    with TeacherClient(addresses, attempt_timeout_s=0.7, timeout_s=20) as client:
        client.wait_ready(10)
        for call, answer in zip(asked[:6], expected, strict=False):
            check(call, client.score(*call, ARGMAX), answer)
        pair[1].send(signal.SIGSTOP)
        try:
            seconds = []
            for call, answer in zip(asked, expected, strict=True):
                begun = time.monotonic()
                check(call, client.score(*call, ARGMAX), answer)
                seconds.append(time.monotonic() - begun)
                time.sleep(0.02)
        finally:
            pair[1].send(signal.SIGCONT)
        assert sum(s > 0.6 for s in seconds) == 1
        assert max(seconds) < 20
        fleet = client._client._fleet
        end = time.monotonic() + 10
        while not all(r.serving for r in fleet.replicas):
            assert time.monotonic() < end, "the replica that woke up is not asked again"
            time.sleep(0.01)


def test_killing_one_of_two_replicas_loses_no_answer_and_doubles_none(pair: list[Replica]) -> None:
    asked = calls(240)
    expected = alone(pair[0], asked)
    answered: list[int] = []
    with (
        TeacherClient([r.address for r in pair], timeout_s=30) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        client.wait_ready(10)

        def ask(index: int) -> codec.ScoreResult:
            if index == 80:
                pair[1].send(signal.SIGKILL)
            result = client.score(*asked[index], ARGMAX)
            answered.append(index)
            return result

        results = list(pool.map(ask, range(len(asked))))
    assert pair[1].process.wait(10) == -signal.SIGKILL
    assert sorted(answered) == list(range(len(asked)))
    for call, result, answer in zip(asked, results, expected, strict=True):
        check(call, result, answer)


def test_one_joins_by_its_name_in_a_file_and_the_other_ends_by_sigterm(
    pair: list[Replica], tmp_path: Path
) -> None:
    """A rolling change: all answers are there and right, and the one that ends does so well."""
    asked = calls(240)
    expected = alone(pair[0], asked)
    leaving, joining = pair
    file = tmp_path / "teachers"
    file.write_text(f"{leaving.address}\n")
    answered: list[int] = []
    with (
        TeacherClient(f"file:{file}", refresh_s=0.05, timeout_s=30) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        client.wait_ready(10)

        def ask(index: int) -> codec.ScoreResult:
            if index == 60:
                file.write_text(f"{leaving.address}\n{joining.address}\n")
            if index == 160:
                assert [r.asked > 0 for r in client._client._fleet.replicas] == [True, True]
                leaving.send(signal.SIGTERM)
            result = client.score(*asked[index], ARGMAX)
            answered.append(index)
            time.sleep(0.005)
            return result

        results = list(pool.map(ask, range(len(asked))))
    assert leaving.process.wait(10) == 0
    assert sorted(answered) == list(range(len(asked)))
    for call, result, answer in zip(asked, results, expected, strict=True):
        check(call, result, answer)
