"""Replicas that join and leave a stream of calls: real servers on sockets of this machine.

Several threads ask one client, which reads a file of addresses again and again. What each server
computed is counted, so that an answer that is missing, or was computed twice, shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_service import codec
from teacher_service.client import TeacherClient
from teacher_service.config import ServerConfig
from teacher_service.local_model import load_local_model
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import random_pairs, save_tiny_teacher, tiny_config

ARGMAX = codec.ArgmaxSpec("float32")
TOLERANCE = 1e-5  # other company in a batch moves a log-probability by about 2e-6
REFRESH_S = 0.05
SOON_S = 5.0
Call = tuple[list[list[int]], list[list[int]]]


@dataclass
class Counted:
    """A backend that counts the sequences it computes, and takes its time."""

    seconds: float = 0.004
    computed: int = 0
    busy: threading.Event = field(default_factory=threading.Event)

    def load(self, config: ServerConfig) -> Any:
        model = load_local_model(config.model_dir, "cpu", "fp32", 1)
        score = model.score

        def counted(choice: Any, items: Sequence[Any]) -> Any:
            self.busy.set()
            time.sleep(self.seconds)
            self.computed += len(items)
            return score(choice, items)

        model.score = counted  # type: ignore[method-assign]
        return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher, and another one of the same vocabulary."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate(("one", "other")):
        save_tiny_teacher(folder / name, seed=seed)
    return folder / "one", folder / "other"


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[Path, Counted], ServerThread]:
    """A server of a model directory on a socket of its own, ready where its block begins."""
    numbers = iter(range(100))

    def serve(model_dir: Path, backend: Counted) -> ServerThread:
        address = f"unix:{tmp_path}/{next(numbers)}"
        return ServerThread(tiny_config(model_dir, address=address), backend.load)

    return serve


def ready(server: ServerThread, backend: Counted) -> None:
    """It serves; what it computed to warm up does not count."""
    with TeacherClient(server.address) as client:
        client.wait_ready(30)
    backend.computed = 0


def calls(count: int) -> list[Call]:
    """Six sequences each, none of them empty."""
    found = []
    for n in range(count):
        sources, targets = random_pairs(12, seed=n)
        kept = [(s, t) for s, t in zip(sources, targets, strict=True) if t][:6]
        found.append(([s for s, _ in kept], [t for _, t in kept]))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it came true."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + SOON_S, what
        time.sleep(0.005)
    return time.monotonic() - begun


class Stream:
    """Calls of four threads, in the order given, until all are answered."""

    def __init__(self, client: TeacherClient, asked: Sequence[Call]) -> None:
        self.answered: list[int] = []
        self._pool = ThreadPoolExecutor(4)

        def ask(index: int) -> codec.ScoreResult:
            result = client.score(*asked[index], ARGMAX)
            self.answered.append(index)
            return result

        self._calls = [self._pool.submit(ask, index) for index in range(len(asked))]

    def reached(self, count: int) -> None:
        wait_until(lambda: len(self.answered) >= count, f"{count} answers")

    def results(self) -> list[codec.ScoreResult]:
        self._pool.shutdown()
        return [call.result() for call in self._calls]


def check(
    asked: Sequence[Call], results: list[codec.ScoreResult], expected: list[codec.ScoreResult]
) -> None:
    """Every call answered once, with its own values at all its positions."""
    for (_, targets), result, right in zip(asked, results, expected, strict=True):
        assert result.lengths_B.tolist() == [len(t) for t in targets]
        assert len(result.token_log_probs_P) == sum(map(len, targets))
        np.testing.assert_allclose(
            result.token_log_probs_P, right.token_log_probs_P, atol=TOLERANCE, rtol=0
        )


def test_one_joins_and_the_first_drains_in_a_stream_of_calls(models, serve, tmp_path):
    """The second takes work soon after it is named; the first finishes what it has and gets no
    more; each sequence is computed once, by one of them."""
    asked = calls(200)
    first, second = Counted(), Counted()
    file = tmp_path / "teachers"
    with serve(models[0], Counted(seconds=0.0)) as alone, TeacherClient(alone.address) as client:
        expected = [client.score(*call, ARGMAX) for call in asked]
    with serve(models[0], first) as leaving, serve(models[0], second) as joining:
        ready(leaving, first)
        file.write_text(f"{leaving.address}\n")
        with TeacherClient(f"file:{file}", refresh_s=REFRESH_S, timeout_s=20) as client:
            stream = Stream(client, asked)
            ready(joining, second)
            stream.reached(50)
            assert second.computed == 0
            file.write_text(f"{leaving.address}\n{joining.address}\n")
            wait_until(lambda: second.computed > 0, "the one that joined gets no work")
            both = first.computed, second.computed
            stream.reached(len(stream.answered) + 32)
            shares = first.computed - both[0], second.computed - both[1]
            first.busy.clear()
            assert first.busy.wait(SOON_S)  # in the middle of a batch
            leaving.stop()
            leaving._ended.result(20)
            drained = first.computed
            results = stream.results()
    check(asked, results, expected)
    assert sorted(stream.answered) == list(range(len(asked)))
    assert min(shares) > 0.25 * sum(shares), "load is spread"
    assert first.computed == drained and "cut off" not in str(leaving.events)
    assert first.computed + second.computed == sum(len(sources) for sources, _ in asked)


def test_one_of_another_revision_that_joins_is_told_of_and_never_used(
    models, serve, tmp_path, caplog
):
    asked = calls(40)
    right, wrong = Counted(), Counted()
    file = tmp_path / "teachers"
    with serve(models[0], right) as server, serve(models[1], wrong) as stranger:
        ready(server, right)
        ready(stranger, wrong)
        file.write_text(server.address)
        with TeacherClient(f"file:{file}", refresh_s=REFRESH_S, timeout_s=20) as client:
            expected = [client.score(*call, ARGMAX) for call in asked]
            file.write_text(f"{server.address}\n{stranger.address}\n")
            fleet = client._client._fleet
            client.model_info()
            wait_until(lambda: client.model_info() and len(fleet.replicas) == 2, "it is read")
            check(asked, Stream(client, asked).results(), expected)
            revision = client.model_info().revision
        with TeacherClient(stranger.address) as client:
            other = client.model_info().revision
    assert wrong.computed == 0 and right.computed == 2 * sum(len(s) for s, _ in asked)
    (line,) = [r.getMessage() for r in caplog.records if "is not used" in r.getMessage()]
    assert stranger.address in line and revision in line and other in line
