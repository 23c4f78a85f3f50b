"""What was scored before is answered from memory, sequence by sequence, over real gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec
from teacher_service.client import TeacherClient
from teacher_service.config import ServerConfig
from teacher_service.local_model import LocalModel, load_local_model
from teacher_service.server import ServerThread
from teacher_service.work import ScoreChoice, ScoreItem
from tests.unit.teacher_service.support import random_pairs, save_tiny_teacher, tiny_config

SOURCES, TARGETS = random_pairs(24)
TOP = codec.TopKSpec(5, "float32")
KEEPING = {"encoder_cache_mib": 1, "score_cache_mib": 1}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


class Gate:
    def __init__(self) -> None:
        self.given: list[int] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()


class Served:
    """A client, and what its teacher's model was given.

    Attributes:
        entered, open: the model has begun to score; it goes on while this is set.
    """

    def __init__(self, client: TeacherClient, server: ServerThread, gate: Gate) -> None:
        self.client, self.server, self._given = client, server, gate.given
        self.entered, self.open = gate.entered, gate.open

    def computed(self) -> int:
        """Pairs the model was given since this was last asked."""
        count = sum(self._given)
        self._given.clear()
        return count

    def batches(self) -> list[int]:
        """Pairs of each batch since :meth:`computed` was asked."""
        return list(self._given)

    def hits(self, cache: str) -> float | None:
        registry = self.server.server.metrics.registry
        return registry.get_sample_value("teacher_cache_hits_total", {"cache": cache})


@contextmanager
def serving(config: ServerConfig) -> Iterator[Served]:
    gate = Gate()

    def load(config: ServerConfig) -> LocalModel:
        model = load_local_model(
            config.model_dir, "cpu", "fp32", 1, encoder_cache_bytes=config.encoder_cache_bytes
        )
        score = model.score

        def watched(choice: ScoreChoice, items: Sequence[ScoreItem]) -> Any:
            gate.given.append(len(items))
            gate.entered.set()
            assert gate.open.wait(30)
            return score(choice, items)

        model.score = watched  # type: ignore[method-assign]
        return model

    with ServerThread(config, load) as server, TeacherClient(server.address) as client:
        client.wait_ready(30)
        gate.given.clear()
        try:
            yield Served(client, server, gate)
        finally:
            gate.open.set()


@pytest.fixture(scope="module")
def module_served(model_dir: Path) -> Iterator[Served]:
    with serving(tiny_config(model_dir, **KEEPING)) as served:
        yield served


@pytest.fixture
def served(module_served: Served) -> Served:
    module_served.computed()
    module_served.server.server._servicer.scores.cache.clear()
    return module_served


def same(found: codec.ScoreResult, expected: codec.ScoreResult, tolerance: float = 0.0) -> bool:
    arrays = [
        (found.token_log_probs_P, expected.token_log_probs_P),
        *zip(vars(found.payload).values(), vars(expected.payload).values(), strict=True),
    ]
    return all(np.allclose(a, b, rtol=0, atol=tolerance) for a, b in arrays)


def test_a_repeated_call_needs_no_model_and_answers_the_same(served):
    first = served.client.score(SOURCES, TARGETS, TOP)
    assert served.computed() == len(SOURCES)
    again = served.client.score(SOURCES, TARGETS, TOP)
    assert served.computed() == 0
    assert same(again, first)
    assert (again.queue_seconds, again.compute_seconds) == (0, 0)
    assert served.hits("score") == len(SOURCES)


def test_a_repeated_stream_needs_no_model(served):
    first = served.client.score(SOURCES, TARGETS, codec.FullSpec())
    served.computed()
    assert same(served.client.score(SOURCES, TARGETS, codec.FullSpec()), first)
    assert served.computed() == 0


def test_of_a_call_with_some_known_pairs_only_the_new_ones_are_computed(served, model_dir):
    with serving(tiny_config(model_dir)) as plain:
        expected = plain.client.score(SOURCES, TARGETS, TOP)
    served.client.score(SOURCES[::3], TARGETS[::3], TOP)
    served.computed()
    assert same(served.client.score(SOURCES, TARGETS, TOP), expected, 1e-5)
    assert served.computed() == len(SOURCES) - len(SOURCES[::3])


@pytest.mark.parametrize(
    "other",
    [
        {"payload": codec.TopKSpec(6, "float32")},
        {"payload": codec.TopKSpec(5, "float16")},
        {"payload": codec.ArgmaxSpec("float32")},
        {"payload": TOP, "temperature": 1.5},
    ],
    ids=["k", "dtype", "kind", "temperature"],
)
def test_another_way_of_asking_is_computed(served, other):
    served.client.score(SOURCES, TARGETS, TOP)
    served.computed()
    served.client.score(SOURCES, TARGETS, **other)
    assert served.computed() == len(SOURCES)


def test_the_callers_own_candidates_belong_to_the_question(served):
    spec = codec.CandidatesSpec("float32")
    tables = [
        [np.array([[4 + first, 7 + first]] * len(target)).reshape(-1, 2) for target in TARGETS]
        for first in (0, 1)
    ]
    first, second, again = (
        served.client.score(SOURCES, TARGETS, spec, candidates=table).payload.log_probs_PK
        for table in (*tables, tables[0])
    )
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, again)
    # A target without ids has no candidates that could differ.
    assert served.computed() == len(SOURCES) + sum(map(bool, TARGETS))


def test_known_sources_with_new_targets_run_the_decoder_alone(served, model_dir):
    with serving(tiny_config(model_dir)) as plain:
        expected = plain.client.score(SOURCES, TARGETS[::-1], TOP)
        assert plain.hits("encoder") == plain.hits("score") == 0
    served.client.score(SOURCES, TARGETS, TOP)
    before = served.hits("encoder")
    served.computed()
    assert same(served.client.score(SOURCES, TARGETS[::-1], TOP), expected, 1e-5)
    assert served.hits("encoder") == before + served.computed()


def test_a_deterministic_server_keeps_nothing(model_dir):
    with serving(tiny_config(model_dir, deterministic=True, **KEEPING)) as served:
        served.client.score(SOURCES, TARGETS, TOP)
        served.client.score(SOURCES, TARGETS, TOP)
        assert served.computed() == 2 * len(SOURCES)
        assert served.hits("encoder") == served.hits("score") == 0


def test_a_deterministic_server_answers_bit_by_bit_whatever_the_company(model_dir):
    def asked_beside(others: int) -> tuple[codec.ScoreResult, list[int]]:
        """An answer computed after others came in, and the sizes of its batches."""
        served.entered.clear()
        served.open.clear()
        served.computed()
        engine = served.server.server.engine
        assert engine is not None
        with ThreadPoolExecutor(others + 2) as pool:
            pool.submit(served.client.score, [[5, 1]], [[6]], TOP)
            assert served.entered.wait(10)
            for i in range(others):
                pool.submit(served.client.score, SOURCES[i : i + 2], TARGETS[i : i + 2], TOP)
            while engine.waiting()["score"][0] < others:
                pass
            answer = pool.submit(served.client.score, SOURCES, TARGETS, TOP)
            while engine.waiting()["score"][0] < others + 1:
                assert not answer.done()
            served.open.set()
            return answer.result(20), served.batches()[1 + others :]

    with serving(tiny_config(model_dir, deterministic=True, **KEEPING)) as served:
        alone, batches = asked_beside(0)
        assert sum(batches) == len(SOURCES)
        for others in (1, 5):
            found, sizes = asked_beside(others)
            assert same(found, alone) and sizes == batches


def test_known_pairs_are_answered_while_the_queue_is_full(model_dir):
    with serving(tiny_config(model_dir, queue_requests=1, **KEEPING)) as served:
        served.client.score(SOURCES, TARGETS, TOP)
        served.entered.clear()
        served.open.clear()
        sequence = pb.ScoreSequence(source_ids=[5, 1], target_ids=[6])
        request = pb.ScoreRequest(
            sequences=[sequence], payload=pb.PayloadSpec(kind="PAYLOAD_KIND_ARGMAX")
        )
        with grpc.insecure_channel(served.server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            calls = [stub.Score.future(request)]
            assert served.entered.wait(10)
            calls.append(stub.Score.future(request))
            engine, pause = served.server.server.engine, threading.Event()
            while engine.waiting()["score"][0] == 0:
                pause.wait(0.002)
            with pytest.raises(grpc.RpcError, match="queue is full"):
                stub.Score(request)
            assert len(served.client.score(SOURCES, TARGETS, TOP).lengths_B) == len(SOURCES)
            served.open.set()
            assert all(call.result(10).token_log_probs.shape == [1] for call in calls)
