"""Binding, phases, draining and the command line of the server."""

# ruff: noqa: SIM117  (nested blocks show who outlives whom)

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from seq2seq.errors import UserError
from teacher_service import codec, errors
from teacher_service.client import TeacherClient
from teacher_service.loading import load_and_warm
from teacher_service.local_model import load_local_model
from teacher_service.server import SERVICE, ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config
from tests.watching import scraper, wait_until

ARGMAX = codec.ArgmaxSpec()
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


class Process:
    """``python -m teacher_service`` and the events it tells."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "teacher_service", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"no {name}: {self.end()}")

    def end(self, timeout_s: float = 30.0) -> tuple[int, list[str]]:
        """Exit status and lines of standard error."""
        _, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, err.splitlines()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.communicate()


def test_sigterm_finishes_the_calls_under_way_and_exits_zero(start, model_dir, tmp_path):
    file = tmp_path / "address"
    process = start(
        *(str(model_dir), "--address", "127.0.0.1:0", "--address-file", str(file)),
        *("--threads", "1", "--metrics-address", "0"),
    )
    listening = process.event("listening")
    address, read = listening["address"], scraper(listening["metrics_address"])
    assert file.read_text() == address + "\n"
    process.event("serving")
    with TeacherClient(address) as client, ThreadPoolExecutor(3) as pool:
        client.model_info()
        sources = [[5, 6, 7, 1]] * 60
        calls = [
            pool.submit(client.generate, sources, codec.Beam(16), request_size=60) for _ in range(3)
        ]
        # The first is under way, two wait behind it.
        wait_until(lambda: read("queue_requests", lane="generate") == 2)
        process.process.send_signal(signal.SIGTERM)
        assert process.event("draining")["inside"] >= 2
        with TeacherClient(address, timeout_s=0.2) as late:
            with pytest.raises(errors.TeacherUnavailable):
                late.model_info()
        assert [len(call.result(60)) for call in calls] == [60, 60, 60]
    status, lines = process.end()
    assert status == 0, lines
    assert not file.exists()


def test_an_interruption_while_the_model_is_read_ends_well(start, model_dir):
    process = start(str(model_dir), "--address", "127.0.0.1:0", "--threads", "1")
    process.event("listening")
    process.process.send_signal(signal.SIGINT)
    assert process.event("draining")["inside"] == 0
    process.event("stopped")
    assert process.end() == (0, [])


def test_it_ends_with_its_standard_input(start, model_dir):
    process = start(
        *(str(model_dir), "--address", "127.0.0.1:0", "--threads", "1", "--end-with-stdin")
    )
    process.event("serving")
    assert process.process.stdin is not None
    process.process.stdin.write("what is written there is not read as anything\n")
    process.process.stdin.close()
    process.process.stdin = None  # communicate() would flush it
    process.event("stopped")
    assert process.end() == (0, [])


def test_a_standard_input_that_never_closes_is_refused(model_dir, tmp_path):
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file:
        done = subprocess.run(
            [sys.executable, "-m", "teacher_service", str(model_dir), "--end-with-stdin"],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "--end-with-stdin: standard input is a file" in done.stderr.splitlines()[-1]


def test_a_taken_port_is_one_clear_line_and_a_failure(start, model_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, lines = start(str(model_dir), "--address", address).end()
    assert status == 2
    assert lines == [
        f"error: cannot listen on {address}: Address already in use; stop whatever uses it or "
        "choose another --address (port 0 picks a free one)"
    ]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--address", "0.0.0.0:0"], "neither TLS nor a token guards it"),
        (["--address", "nowhere"], "is not HOST:PORT"),
        (["--token-file", "/nonexistent"], "cannot read the token file /nonexistent"),
        (["--dtype", "int3"], "dtype: Input should be 'fp32'"),
        (["--address", "127.0.0.1:0", "--device", "cuda:99"], "is not usable"),
        (["--threads", "0"], "--threads: Input should be greater than or equal to 1 (given 0)"),
    ],
)
def test_bad_settings_are_one_clear_line_and_a_failure(start, model_dir, arguments, fault):
    status, lines = start(str(model_dir), *arguments).end()
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert fault in lines[0]


def test_a_broken_model_directory_is_one_clear_line_and_a_failure(start, tmp_path):
    status, lines = start(str(tmp_path / "none"), "--address", "127.0.0.1:0").end()
    assert status == 2
    assert len(lines) == 1
    assert "is no model directory" in lines[0]


def test_a_model_that_does_not_run_there_is_one_clear_line(model_dir):
    def load(config: Any) -> Any:
        model = load_local_model(config.model_dir, "cpu", "fp32", 1)

        def warm_up(batch_tokens: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 7 GiB")

        model.warm_up = warm_up  # type: ignore[method-assign]
        return model

    with pytest.raises(UserError) as caught:
        load_and_warm(tiny_config(model_dir), load)
    assert str(caught.value) == (
        f"{model_dir}: does not run on cpu in fp32 with batches of 256 ids (CUDA out of memory. "
        "Tried to allocate 7 GiB); lower --batch-tokens, or choose another --device or --dtype"
    )


def test_two_servers_never_share_a_port(model_dir):
    with ServerThread(tiny_config(model_dir)) as server:
        with pytest.raises(UserError, match=f"cannot listen on {server.address}"):
            with ServerThread(tiny_config(model_dir, address=server.address)):
                pass


def test_a_unix_socket_is_served_and_not_taken_over(model_dir, tmp_path):
    address = f"unix:{tmp_path}/teacher.sock"
    with ServerThread(tiny_config(model_dir, address=address)) as server:
        assert server.address == address
        with TeacherClient(address) as client:
            client.wait_ready(30)
            with pytest.raises(UserError, match="already in use"):
                with ServerThread(tiny_config(model_dir, address=address)):
                    pass
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("none/s", "none is no directory"),
        ("file", "there is a file that is no socket"),
        ("s" * 150, "AF_UNIX path too long"),
    ],
)
def test_a_place_for_no_socket_is_one_clear_line(model_dir, tmp_path, name, fault):
    (tmp_path / "file").write_text("mine")
    address = f"unix:{tmp_path}/{name}"
    with pytest.raises(UserError, match=f"cannot listen on {address}: .*{fault}; stop whatever"):
        with ServerThread(tiny_config(model_dir, address=address)):
            pass
    assert (tmp_path / "file").read_text() == "mine"


class Slow:
    """A backend whose loading and scoring wait to be let go."""

    def __init__(self) -> None:
        self.may_load, self.may_score = threading.Event(), threading.Event()
        self.loading, self.scoring = threading.Event(), threading.Event()

    def load(self, config: Any) -> Slow:
        self.loading.set()
        assert self.may_load.wait(30)
        self._model = load_local_model(config.model_dir, "cpu", "fp32", 1)
        self.identity = self._model.identity
        self.artifact, self.generate = self._model.artifact, self._model.generate
        return self

    def warm_up(self, batch_tokens: int) -> None: ...

    def score(self, choice: Any, items: Sequence[Any]) -> Any:
        self.scoring.set()
        assert self.may_score.wait(30)
        return self._model.score(choice, items)


def status_of(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_health_in_every_phase(model_dir):
    slow = Slow()
    with ServerThread(tiny_config(model_dir), slow.load) as server:
        with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as pool:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            seen = iter(health_pb2_grpc.HealthStub(channel).Watch(request))
            assert slow.loading.wait(10)
            assert next(seen).status == NOT_SERVING
            assert [status_of(server.address, name) for name in ("", SERVICE)] == [NOT_SERVING] * 2
            with TeacherClient(server.address, timeout_s=0.2) as client:
                with pytest.raises(errors.TeacherUnavailable, match="loading its model"):
                    client.model_info()
            slow.may_load.set()
            assert next(seen).status == SERVING
            assert [status_of(server.address, name) for name in ("", SERVICE)] == [SERVING] * 2
            with TeacherClient(server.address) as client:
                call = pool.submit(client.score, [[5, 1]], [[6]], ARGMAX)
                assert slow.scoring.wait(10)
                server.stop()
                assert next(seen).status == NOT_SERVING
                assert status_of(server.address, SERVICE) == NOT_SERVING
                with TeacherClient(server.address, timeout_s=0.2) as late:
                    with pytest.raises(errors.TeacherUnavailable, match="shutting down"):
                        late.model_info()
                slow.may_score.set()
                assert call.result(20).lengths_B.tolist() == [1]
    assert [e["event"] for e in server.events] == ["listening", "serving", "draining", "stopped"]


def test_a_stop_while_idle_ends_at_once(model_dir):
    with ServerThread(tiny_config(model_dir, drain_grace_s=60)) as server:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
            server.stop()
            server._ended.result(10)
    assert server.events[-2:] == [{"event": "draining", "inside": 0}, {"event": "stopped"}]


def test_a_stop_while_a_batch_waits_for_company_still_answers_it(model_dir):
    config = tiny_config(model_dir, max_delay_ms=400.0)
    with ServerThread(config) as server, ThreadPoolExecutor(1) as pool:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
            client.model_info()
            call = pool.submit(client.score, [[5, 1]], [[6, 7]], ARGMAX)
            assert server.server.engine is not None
            while server.server.engine.waiting()["score"][0] == 0:
                assert not call.done()
            server.stop()
            assert call.result(20).lengths_B.tolist() == [2]
    assert {"event": "draining", "inside": 1} in server.events


def test_a_lame_duck_still_takes_calls(model_dir):
    with ServerThread(tiny_config(model_dir, lame_duck_s=0.5)) as server:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
            server.stop()
            while status_of(server.address, SERVICE) != NOT_SERVING:
                pass
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]


def test_draining_ends_with_the_grace_even_if_a_batch_does_not(model_dir, caplog):
    slow = Slow()
    slow.may_load.set()
    stuck: list[BaseException | None] = []
    with ThreadPoolExecutor(1) as pool:
        with ServerThread(tiny_config(model_dir, drain_grace_s=0.2), slow.load) as server:
            with TeacherClient(server.address, timeout_s=20) as client:
                client.wait_ready(30)
            # A deadline of its own: nobody is left to answer it.
            client = TeacherClient(server.address, timeout_s=0.5, attempt_timeout_s=20)
            client._client._recognise(server.address, _model_info(server.address))
            call = pool.submit(client.score, [[5, 1]], [[6]], ARGMAX)
            assert slow.scoring.wait(10)
            server.stop()
            stuck.append(call.exception(20))
            slow.may_score.set()
            client.close()
    assert isinstance(stuck[0], errors.TeacherError)
    assert "1 calls were cut off after the grace of 0.2 s" in caplog.text


def _model_info(address: str) -> codec.ModelInfo:
    with TeacherClient(address) as client:
        return client.model_info()


def test_a_stop_during_loading_does_not_wait_for_it(model_dir):
    slow = Slow()
    with ServerThread(tiny_config(model_dir), slow.load) as server:
        assert slow.loading.wait(10)
    slow.may_load.set()
    assert [e["event"] for e in server.events] == ["listening", "draining", "stopped"]


@pytest.mark.parametrize("enabled", [True, False])
def test_reflection_by_flag(model_dir, enabled):
    with ServerThread(tiny_config(model_dir, reflection=enabled)) as server:
        with grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            if not enabled:
                with pytest.raises(grpc.RpcError) as caught:
                    database.get_services()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                return
            assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
            service = DescriptorPool(database).FindServiceByName(SERVICE)
            assert {m.name for m in service.methods} >= {"Score", "ScoreStream", "Generate"}


def test_a_client_not_written_here(model_dir):
    """The `buf curl` of the documentation: reflection, JSON in, JSON out."""
    beside = Path(sys.executable).with_name("buf")
    buf = str(beside) if beside.is_file() else shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed; the package buf-bin has it")
    with ServerThread(tiny_config(model_dir)) as server:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
            expected = client.generate([[5, 6, 1]], codec.Beam(2, 2))
        done = subprocess.run(
            [
                buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge",
                "--data", '{"inputs": [{"sourceIds": [5, 6, 1]}], "beam": {"size": 2, "nBest": 2}}',
                f"http://{server.address}/{SERVICE}/Generate",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (output,) = json.loads(done.stdout)["outputs"]
    assert [h["ids"] for h in output["hypotheses"]] == [h.ids for h in expected[0]]


def test_tls_with_the_servers_certificate(model_dir, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed; it makes the test's certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(certificate),
        ],
        capture_output=True, check=True,
    )  # fmt: skip
    config = tiny_config(model_dir, tls_certificate=certificate, tls_key=key)
    with ServerThread(config) as server:
        with TeacherClient(server.address, root_certificates=certificate.read_bytes()) as client:
            client.wait_ready(30)
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]
        with TeacherClient(server.address, timeout_s=0.3) as client:
            with pytest.raises(errors.TeacherUnavailable):
                client.model_info()
