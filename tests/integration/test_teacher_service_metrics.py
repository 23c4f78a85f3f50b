"""What a running server shows to Prometheus, scraped over HTTP."""

# ruff: noqa: SIM117  (nested blocks show who outlives whom)

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec, errors
from teacher_service.client import TeacherClient
from teacher_service.config import ServerConfig
from teacher_service.local_model import load_local_model
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config
from tests.watching import scraper, wait_until

Labels = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


class Backend:
    """The tiny teacher, whose loading and scoring wait to be let go."""

    def __init__(self) -> None:
        self.may_load, self.may_score = threading.Event(), threading.Event()
        self.scoring = threading.Event()
        self.may_load.set()
        self.may_score.set()

    def load(self, config: ServerConfig) -> Any:
        assert self.may_load.wait(30)
        model = load_local_model(
            config.model_dir, "cpu", "fp32", 1, encoder_cache_bytes=config.encoder_cache_bytes
        )
        score = model.score

        def gated(choice: Any, items: Sequence[Any]) -> Any:
            self.scoring.set()
            assert self.may_score.wait(30)
            return score(choice, items)

        model.score = gated  # type: ignore[method-assign]
        return model


@contextmanager
def serving(
    model_dir: Path, **change: Any
) -> Iterator[tuple[ServerThread, Backend, TeacherClient, Callable[..., float | None]]]:
    backend = Backend()
    config = tiny_config(model_dir, metrics_address="0", **change)
    try:
        with ServerThread(config, backend.load) as server:
            with TeacherClient(server.address, timeout_s=20) as client:
                client.wait_ready(30)
                yield server, backend, client, scraper(server.events[0]["metrics_address"])
    finally:
        backend.may_score.set()


def request(sequences: int) -> pb.ScoreRequest:
    sequence = pb.ScoreSequence(source_ids=[5, 6, 1], target_ids=[6, 7])
    return pb.ScoreRequest(
        sequences=[sequence] * sequences, payload=pb.PayloadSpec(kind="PAYLOAD_KIND_ARGMAX")
    )


REPLY_BYTES = 2 * (2 + 2 + 2)  # two positions: id, its and the actual token's log-probability


def test_gauges_are_exact_under_saturation_and_zero_after(model_dir):
    with serving(model_dir, queue_requests=4) as (server, backend, _, read):
        backend.may_score.clear()
        backend.scoring.clear()
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            calls = [stub.Score.future(request(1))]
            assert backend.scoring.wait(10)
            calls += [stub.Score.future(request(3)) for _ in range(4)]
            wait_until(lambda: read("queue_requests", lane="score") == 4)
            for _ in range(3):
                with pytest.raises(grpc.RpcError, match="queue is full"):
                    stub.Score(request(1))
            assert read("queue_tokens", lane="score") == 4 * 3 * 5
            assert read("queue_oldest_seconds", lane="score") > 0
            assert read("reply_bytes", lane="score") == (1 + 4 * 3) * REPLY_BYTES
            assert read("rejections_total", reason="queue_full") == 3
            calls[4].cancel()
            wait_until(lambda: read("queue_requests", lane="score") == 3)
            assert read("reply_bytes", lane="score") == (1 + 3 * 3) * REPLY_BYTES
            backend.may_score.set()
            for call in calls[:4]:
                call.result(10)
        wait_until(lambda: read("reply_bytes", lane="score") == 0)
        for gauge in ("queue_requests", "queue_tokens", "queue_oldest_seconds"):
            assert read(gauge, lane="score") == 0
        ends = {e: read("sequences_total", lane="score", end=e) for e in ("computed", "dropped")}
        assert ends == {"computed": 1 + 3 * 3, "dropped": 3}
        codes = {
            code: read("requests_total", method="Score", mode="argmax", code=code)
            for code in ("OK", "RESOURCE_EXHAUSTED", "CANCELLED")
        }
        assert codes == {"OK": 4, "RESOURCE_EXHAUSTED": 3, "CANCELLED": 1}


def test_calls_by_method_mode_and_code(model_dir):
    with serving(model_dir) as (server, _, client, read):
        client.score([[5, 1]], [[6]], codec.TopKSpec(3))
        client.score([[5, 1]], [[6]], codec.FullSpec())
        client.generate([[5, 1]], codec.Beam(2))
        with pytest.raises(errors.TeacherRefused):
            client.score([[5, 1]], [[99]], codec.TopKSpec(3))
        with TeacherClient(server.address, expected_revision="x") as other:
            with pytest.raises(errors.TeacherMismatch):
                other.model_info()
        assert read("requests_total", method="Score", mode="top_k", code="OK") == 1
        assert read("requests_total", method="ScoreStream", mode="full", code="OK") == 1
        assert read("requests_total", method="Generate", mode="beam", code="OK") == 1
        refused = {"method": "Score", "mode": "top_k", "code": "INVALID_ARGUMENT"}
        assert read("requests_total", **refused) == 1
        assert read("rejections_total", reason="invalid_request") == 1
        assert read("rejections_total", reason="mismatch") == 1
        assert read("compute_seconds_total", lane="generate") > 0
        assert read("batch_sequences_sum", lane="score") == 2
        info = client.model_info()
        labels = {"device": "cpu", "dtype": "fp32", "parameters": str(info.parameters)}
        labels |= {k: getattr(info, k) for k in ("name", "revision", "fingerprint")}
        assert read("model_info", **labels) == 1


def test_strangers_are_counted_without_their_words_becoming_labels(model_dir, tmp_path):
    (tmp_path / "token").write_text("sesame")
    config = tiny_config(model_dir, metrics_address="0", token_file=tmp_path / "token")
    with ServerThread(config) as server, grpc.insecure_channel(server.address) as channel:
        for path in ("/teacher.v1.TeacherService/Score", "/a/b", "/a/c"):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(path)(b"")
        read = scraper(server.events[0]["metrics_address"])
        refused = {"mode": "", "code": "UNAUTHENTICATED"}
        assert read("requests_total", method="Score", **refused) == 1
        assert read("requests_total", method="other", **refused) == 2
        assert read("rejections_total", reason="no_credential") == 3


def test_the_phases_and_the_end_of_the_endpoint(model_dir):
    backend = Backend()
    backend.may_load.clear()
    with ServerThread(tiny_config(model_dir, metrics_address="0"), backend.load) as server:
        read = scraper(server.events[0]["metrics_address"])

        def phase(name: str) -> bool:
            return read("phase", teacher_phase=name) == 1

        assert phase("loading")
        backend.may_load.set()
        wait_until(lambda: phase("serving"))
        backend.may_score.clear()
        backend.scoring.clear()  # the warm-up has been there
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            call = stub.Score.future(request(1))
            assert backend.scoring.wait(10)
            server.stop()
            wait_until(lambda: phase("draining"))
            backend.may_score.set()
            call.result(10)
    with pytest.raises(urllib.error.URLError):
        read("phase", teacher_phase="draining")


def test_no_endpoint_unless_asked_for(model_dir):
    with ServerThread(tiny_config(model_dir)) as server:
        assert "metrics_address" not in server.events[0]
