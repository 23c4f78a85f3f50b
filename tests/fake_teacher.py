"""A teacher of the contract that computes nothing: behaves as told, in a thread, over real gRPC."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec
from teacher_service.fleet import SERVICE

VOCABULARY = 100


@dataclass
class FakeTeacher(teacher_pb2_grpc.TeacherServiceServicer):
    """Scores a target id t of a source s with log-probability -(s[0] + t / 256), argmax s[0].

    Attributes:
        before: called with (method, request, context) before each answer; may block or abort.
        seen: first source id of every sequence scored to the end, with its count.
        ended: RPCs that ended, cancelled ones included.
        limits: fields of ModelInfo to change.
        gap: positions that the second chunk of a stream leaves out; then it waits for ``hold``.
        address: to bind; the bound one, once served.
    """

    revision: str = "sha256:one"
    before: Callable[[str, Any, grpc.ServicerContext], None] = lambda *_: None
    limits: dict[str, int] = field(default_factory=dict)
    gap: int = 0
    seen: Counter[int] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    hold: threading.Event = field(default_factory=threading.Event)
    address: str = "127.0.0.1:0"

    def __post_init__(self) -> None:
        self.health = health.HealthServicer()
        self._lock = threading.Lock()

    def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Any) -> Any:
        self._enter("GetModelInfo", request, request.expect, context)
        fields = {
            "name": "fake",
            "revision": self.revision,
            "vocabulary_size": VOCABULARY,
            "fingerprint": "sha256:vocabulary",
            "max_source_length": 50,
            "max_target_length": 50,
            "batch_token_budget": 1000,
            "max_request_sequences": 2,
            "max_request_tokens": 1000,
            "max_request_bytes": 1 << 20,
            "max_unary_reply_bytes": 1 << 20,
            "max_stream_reply_bytes": 1 << 20,
        }
        return pb.GetModelInfoResponse(info=pb.ModelInfo(**(fields | self.limits)))

    def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        self._enter("Score", request, request.expect, context)
        return self._scores(request, range(len(request.sequences)))

    def ScoreStream(self, request: pb.ScoreStreamRequest, context: Any) -> Iterator[Any]:
        wrapped = request.request
        self._enter("ScoreStream", wrapped, wrapped.expect, context)
        total = sum(len(s.target_ids) for s in wrapped.sequences)
        first = 0
        for row in range(len(wrapped.sequences)):
            yield pb.ScoreStreamResponse(
                first_position=first + self.gap * bool(row),
                total_positions=total,
                scores=self._scores(wrapped, [row]),
            )
            if self.gap and row:
                self.hold.wait(10)
            first += len(wrapped.sequences[row].target_ids)

    def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self._enter("Generate", request, request.expect, context)
        outputs = [
            pb.GenerateOutput(hypotheses=[pb.Hypothesis(ids=i.source_ids, finished=True)])
            for i in request.inputs
        ]
        return pb.GenerateResponse(revision=self.revision, outputs=outputs)

    def _enter(self, method: str, request: Any, expect: Any, context: Any) -> None:
        if not context.add_callback(self.ended.release):
            self.ended.release()  # it had ended before it was begun here
        with self._lock:
            self.calls[method] += 1
        if expect.revision and expect.revision != self.revision:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"expected revision {expect.revision} but this teacher is {self.revision}",
            )
        self.before(method, request, context)

    def _scores(self, request: pb.ScoreRequest, rows: Any) -> pb.ScoreResponse:
        sequences = [request.sequences[row] for row in rows]
        with self._lock:
            self.seen.update(s.source_ids[0] for s in sequences)
        pairs = [(s.source_ids[0], t) for s in sequences for t in s.target_ids]
        firsts = np.array([s for s, _ in pairs], np.uint16)
        scores = np.array([-(s + t / 256) for s, t in pairs], np.float32)
        kind = request.payload.kind
        arrays = {"token_log_probs": scores, "ids": firsts, "log_probs": scores}
        if kind == pb.PAYLOAD_KIND_FULL:
            arrays["log_probs"] = np.tile(scores[:, None], (1, VOCABULARY))
        return codec.encode_scores(kind, arrays, self.revision)


def expected(sources: list[list[int]], targets: list[list[int]]) -> list[float]:
    """``token_log_probs_P`` of a fake teacher."""
    return [-(s[0] + t / 256) for s, ts in zip(sources, targets, strict=True) for t in ts]


@contextmanager
def serving(*teachers: FakeTeacher, threads: int = 16) -> Iterator[list[str]]:
    """The teachers' addresses; they stop at once at the block's end."""
    servers = []
    for teacher in teachers:
        server = grpc.server(ThreadPoolExecutor(threads), options=(("grpc.so_reuseport", 0),))
        teacher_pb2_grpc.add_TeacherServiceServicer_to_server(teacher, server)
        health_pb2_grpc.add_HealthServicer_to_server(teacher.health, server)
        teacher.health.set(SERVICE, 1)
        port = server.add_insecure_port(teacher.address)
        teacher.address = f"{teacher.address.rpartition(':')[0]}:{port}"
        server.start()
        servers.append(server)
    try:
        yield [teacher.address for teacher in teachers]
    finally:
        for server in servers:
            server.stop(0).wait()
