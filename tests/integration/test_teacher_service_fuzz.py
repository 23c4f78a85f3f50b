"""Ten thousand damaged messages: every one is answered, by a reply or by the caller's own fault.

Damaged requests go through the handlers in one process, a smaller number over real connections, and
damaged replies through the client's reader. Nothing may crash, hang, turn INTERNAL, or stay behind:
no request, descriptor, thread or memory.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import gc
import os
import random
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec, payloads
from teacher_service.batching import Request
from teacher_service.client import TeacherClient
from teacher_service.engine import Engine, Lane
from teacher_service.errors import TeacherProtocolError
from teacher_service.interceptors import Gate, StatusInterceptor
from teacher_service.local_model import load_local_model
from teacher_service.pending import Pending
from teacher_service.server import ServerThread
from teacher_service.servicer import TeacherServicer
from tests.unit.teacher_service.mutation import damaged, valid_replies, valid_requests
from tests.unit.teacher_service.support import VOCABULARY, save_tiny_teacher, tiny_config
from tests.watching import wait_until

Code = grpc.StatusCode
# What damage may come to; INTERNAL and UNKNOWN would be a defect of ours.
ALLOWED = {Code.OK, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


class Call:
    """A call's context: keeps what it is answered with."""

    def __init__(self) -> None:
        self.code, self.details = Code.OK, ""
        self.replies: list[Any] = []

    def time_remaining(self) -> None:
        """No deadline of its own."""

    async def write(self, reply: Any) -> None:
        self.replies.append(reply)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Comes with the details."""


class Handlers:
    """The service's handlers behind their interceptor, without a network."""

    def __init__(self, model_dir: Path) -> None:
        config = tiny_config(model_dir)
        backend = load_local_model(model_dir, "cpu", "fp32", 1)
        lanes = [
            Lane("score", config.score_limits, backend.score),
            Lane("generate", config.generate_limits, backend.generate),
        ]
        self.engine, self.gate = Engine(lanes), Gate(None)
        self.engine.start()
        self.fingerprint = backend.identity.fingerprint
        servicer = TeacherServicer(config)
        servicer.attach(backend, self.engine)
        self._raw: dict[str, grpc.RpcMethodHandler] = {}
        teacher_pb2_grpc.add_TeacherServiceServicer_to_server(servicer, self)  # type: ignore[arg-type]
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None: ...

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        self._raw = handlers

    async def open(self) -> None:
        interceptor = StatusInterceptor(self.gate)
        for name, handler in self._raw.items():

            async def found(details: Any, handler: Any = handler) -> grpc.RpcMethodHandler:
                return handler

            details = collections.namedtuple("Details", "method")(f"/teacher.v1.Any/{name}")
            wrapped = await interceptor.intercept_service(found, details)  # type: ignore[arg-type]
            assert wrapped is not None
            self._wrapped[name] = wrapped

    async def answer(self, method: str, data: bytes) -> Call:
        handler, call = self._wrapped[method], Call()
        request = handler.request_deserializer(data)
        if handler.response_streaming:
            await handler.unary_stream(request, call)
        elif (reply := await handler.unary_unary(request, call)) is not None:
            call.replies.append(reply)
        return call


def check_scores(method: str, data: bytes, replies: list[Any]) -> None:
    """What is answered at all is answered in full."""
    if method == "Score":
        request, parts = pb.ScoreRequest.FromString(data), replies
    else:
        request = pb.ScoreStreamRequest.FromString(data).request
        parts = [chunk.scores for chunk in replies]
    kind = request.payload.kind
    arrays = codec.join([codec.decode_scores(kind, part) for part in parts])
    assert len(arrays["token_log_probs"]) == sum(len(s.target_ids) for s in request.sequences)
    k = request.payload.k or (request.sequences[0].candidate_ids.shape or [0, 0])[-1]
    payloads.result_payload(kind, arrays, payloads.row_shapes(kind, k, VOCABULARY, 16))


@contextmanager
def built(*kinds: type) -> Iterator[list[weakref.ref[Any]]]:
    """Every object of ``kinds`` built inside, without keeping it.

    Not by way of ``gc.get_objects()``: it hands out what other threads are just taking down.
    """
    seen: list[weakref.ref[Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:

            def noted(self: Any, *given: Any, original: Any = kind.__init__, **named: Any) -> None:
                original(self, *given, **named)
                seen.append(weakref.ref(self))

            patch.setattr(kind, "__init__", noted)
        yield seen


def in_memory(seen: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in seen)


def resources() -> tuple[int, int]:
    """Open descriptors and threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def resident_mib() -> float:
    """Memory in use, freed memory given back first (Linux, glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def test_ten_thousand_damaged_requests_leave_nothing_behind(model_dir):
    handlers = Handlers(model_dir)
    codes: collections.Counter[grpc.StatusCode] = collections.Counter()

    async def send(messages: list[tuple[str, bytes]]) -> None:
        for first in range(0, len(messages), 50):
            some = messages[first : first + 50]
            async with asyncio.timeout(60):
                calls = await asyncio.gather(*(handlers.answer(*message) for message in some))
            for (method, data), call in zip(some, calls, strict=True):
                assert call.code in ALLOWED, (method, data.hex(), call.code, call.details)
                assert "\n" not in call.details
                codes[call.code] += 1
                if call.code is Code.OK and method.startswith("Score"):
                    check_scores(method, data, call.replies)

    async def main() -> None:
        await handlers.open()
        messages = list(damaged(10_000, valid_requests(handlers.fingerprint)))
        await send(messages[:2000])
        before, memory = resources(), resident_mib()
        await send(messages[2000:])
        # The model's thread may still hold the last batch it delivered.
        wait_until(lambda: in_memory(requests) == 0)
        # A leak would be one for each of thousands; libraries open and close a few of their own.
        assert all(now < then + 10 for now, then in zip(resources(), before, strict=True))
        assert resident_mib() - memory < 16

    with built(Request, Pending) as requests:
        try:
            asyncio.run(main())
        finally:
            assert handlers.engine.stop(10)
    assert len(requests) > 1000
    assert handlers.gate.inside == 0
    assert set(handlers.engine.waiting().values()) == {(0, 0, 0)}
    # Enough of each: damage that is always refused, or never, would show little.
    assert codes.total() == 10_000
    assert codes[Code.OK] > 1000 and codes[Code.INVALID_ARGUMENT] > 4000
    assert codes[Code.FAILED_PRECONDITION] > 0


@contextmanager
def serving(model_dir: Path) -> Iterator[ServerThread]:
    with ServerThread(tiny_config(model_dir)) as server:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
        yield server


def test_damaged_requests_over_real_connections(model_dir):
    with serving(model_dir) as server:
        settled = len(os.listdir("/proc/self/fd"))
        codes: collections.Counter[grpc.StatusCode] = collections.Counter()
        with TeacherClient(server.address) as client:
            fingerprint = client.model_info().fingerprint
        with grpc.insecure_channel(server.address) as channel:
            for method, data in damaged(400, valid_requests(fingerprint), seed=1):
                call = channel.unary_stream(f"/teacher.v1.TeacherService/{method}")(
                    data, timeout=30
                )
                try:
                    collections.deque(call, maxlen=0)
                except grpc.RpcError as error:
                    assert error.code() in ALLOWED, (method, data.hex(), error.details())
                codes[call.code()] += 1
        assert codes[Code.OK] > 40 and codes[Code.INVALID_ARGUMENT] > 100
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= settled)
        waiting = server.server.engine.waiting()
        assert set(waiting.values()) == {(0, 0, 0)}


def test_noise_on_the_port_neither_stops_the_server_nor_keeps_descriptors(model_dir):
    draw = random.Random(2)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    with serving(model_dir) as server:
        host, port = server.address.rsplit(":", 1)
        settled = len(os.listdir("/proc/self/fd"))
        for number in range(40):
            with socket.create_connection((host, int(port)), timeout=10) as noise:
                noise.sendall(preface * (number % 2) + draw.randbytes(draw.randrange(1, 300)))
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= settled)
        with TeacherClient(server.address) as client:
            found = client.score([[5, 1]], [[6, 7]], codec.ArgmaxSpec())
        assert found.lengths_B.tolist() == [2]


def test_damaged_replies_are_read_or_refused_and_never_crash_the_client():
    read = refused = unparsed = 0
    for kind, data in damaged(3000, valid_replies(), seed=3):
        try:
            reply = pb.ScoreResponse.FromString(data)
        except DecodeError:  # gRPC's part of the client refuses it
            unparsed += 1
            continue
        try:
            codec.decode_scores(int(kind), reply)
            read += 1
        except TeacherProtocolError as error:
            assert "\n" not in str(error)
            refused += 1
    assert min(read, refused, unparsed) > 300
