"""The synchronous client of one teacher address. Imports neither torch nor anything model-side.

A call is cut into requests the server takes (its limits come with ``GetModelInfo``), each request
is retried within the overall deadline, and the parts are put together again in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec, requests
from teacher_service.candidates import TokenTable, pack_candidates
from teacher_service.errors import (
    TeacherMismatch,
    TeacherProtocolError,
    TeacherRefused,
)
from teacher_service.payloads import empty_arrays, position_bytes, result_payload, row_shapes
from teacher_service.requests import Ids
from teacher_service.retrying import Retrying

# A reply may be as large as the server's largest; the server bounds it, not gRPC's 4 MiB default.
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class TeacherClient:
    """Asks one teacher; safe to share between threads, cheap to build (connects on first use).

    Args:
        address: ``host:port`` or ``unix:path``.
        attempt_timeout_s: deadline of one attempt of one request.
        generate_attempt_timeout_s: the same for ``Generate``, which takes longer.
        timeout_s: deadline of one request with its retries and waits.
        expected_fingerprint, expected_revision: ride in every request; another teacher refuses.
        token: bearer token.
        root_certificates: PEM; makes the channel TLS.
        clock, sleep: injected in tests.
    """

    def __init__(
        self,
        address: str,
        *,
        attempt_timeout_s: float = 30.0,
        generate_attempt_timeout_s: float = 120.0,
        timeout_s: float = 300.0,
        expected_fingerprint: str | None = None,
        expected_revision: str | None = None,
        token: str | None = None,
        root_certificates: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self._generate_attempt_timeout_s = generate_attempt_timeout_s
        self._retrying = Retrying(attempt_timeout_s, timeout_s, clock=clock, sleep=sleep)
        self._expect = pb.ModelExpectation(
            fingerprint=expected_fingerprint or "", revision=expected_revision or ""
        )
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates)
            self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._stub = teacher_pb2_grpc.TeacherServiceStub(self._channel)
        self._info: codec.ModelInfo | None = None
        self._lock = threading.Lock()

    def model_info(self) -> codec.ModelInfo:
        """What the teacher is now; asked anew at every call.

        Raises:
            TeacherError: see :meth:`score`.
        """
        request = pb.GetModelInfoRequest(expect=self._expect)
        reply = self._unary("GetModelInfo", self._stub.GetModelInfo, request)
        info = codec.decode_model_info(reply.info)
        with self._lock:
            self._info = info
        return info

    def score(
        self,
        sources: Sequence[Ids],
        targets: Sequence[Ids],
        payload: codec.PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Sequence[TokenTable] | None = None,
    ) -> codec.ScoreResult:
        """The teacher's distributions along ``targets``.

        Args:
            sources: encoder inputs, end symbol included.
            targets: target ids without the start symbol; the end symbol where it was written.
            payload: what to send about each position; FULL travels as a stream.
            candidates: CANDIDATES only: per target its ids [T, K], one K throughout, those of one
                position distinct.

        Returns:
            Arrays over P = sum of target lengths, in order.

        Raises:
            TeacherRefused: the ids break a rule of the contract, or one sequence is too long.
            TeacherMismatch: another vocabulary or revision than expected, or the revision changed
                between two parts of this call.
            TeacherUnavailable, TeacherTimeout, TeacherFailed, TeacherDenied, TeacherProtocolError
        """
        if len(sources) != len(targets):
            raise TeacherRefused(
                f"{len(sources)} sources but {len(targets)} targets; give one for each"
            )
        info = self._limits()
        spec = requests.payload_spec(payload)
        lengths = np.fromiter((len(t) for t in targets), np.int32, len(targets))
        given = pack_candidates(payload, candidates, lengths, info.vocabulary_size)
        shapes = row_shapes(spec.kind, given.k or spec.k, info.vocabulary_size, info.hidden_size)
        width = position_bytes(shapes, spec.dtype, info.vocabulary_size)
        streamed = spec.kind == pb.PAYLOAD_KIND_FULL
        bound = info.max_stream_reply_bytes if streamed else info.max_unary_reply_bytes
        parts: list[codec.Arrays] = []
        revisions, queue_s, compute_s = set(), 0.0, 0.0
        for rows in requests.split(sources, targets, width, bound, info, given.row_bytes):
            request = requests.score_request(
                self._expect, spec, temperature, sources[rows], targets[rows], given.tensors[rows]
            )
            positions = int(lengths[rows].sum())
            by_stream = streamed or positions * width > info.max_unary_reply_bytes
            arrays, last = (self._stream if by_stream else self._score)(request, positions)
            parts.append(arrays)
            revisions.add(last.revision)
            queue_s += last.timing.queue_seconds
            compute_s += last.timing.compute_seconds
        if len(revisions) > 1:
            raise TeacherMismatch(
                f"{self.address}: the teacher's revision changed during the call "
                f"({', '.join(sorted(revisions))}); keep one revision behind an address"
            )
        arrays = codec.join(parts or [empty_arrays(shapes)])
        return codec.ScoreResult(
            lengths_B=lengths,
            token_log_probs_P=arrays["token_log_probs"],
            payload=result_payload(spec.kind, arrays, shapes),
            revision=revisions.pop() if revisions else info.revision,
            queue_seconds=queue_s,
            compute_seconds=compute_s,
        )

    def generate(
        self,
        sources: Sequence[Ids],
        mode: codec.Greedy | codec.Sample | codec.Beam,
        *,
        limit: codec.LengthLimit | None = None,
        prefixes: Sequence[Ids] | None = None,
        keys: Sequence[int] | None = None,
        request_size: int = 32,
    ) -> list[list[codec.GeneratedHypothesis]]:
        """Targets written by the teacher.

        Args:
            sources: encoder inputs, end symbol included.
            prefixes: per source, target ids that every hypothesis begins with.
            keys: per source, the stream of random numbers for sampling; its index by default.
            request_size: sources in one request.

        Returns:
            Per source its hypotheses, best first.

        Raises:
            TeacherError: see :meth:`score`.
        """
        size = max(1, min(request_size, self._limits().max_request_sequences))
        results: list[list[codec.GeneratedHypothesis]] = []
        for first in range(0, len(sources), size):
            rows = slice(first, min(first + size, len(sources)))
            request = requests.generate_request(
                self._expect,
                mode,
                limit,
                sources[rows],
                [()] * (rows.stop - first) if prefixes is None else prefixes[rows],
                range(first, rows.stop) if keys is None else keys[rows],
            )
            reply = self._unary(
                "Generate", self._stub.Generate, request, self._generate_attempt_timeout_s
            )
            if len(reply.outputs) != len(request.inputs):
                raise TeacherProtocolError(
                    f"{self.address}: {len(request.inputs)} sources, {len(reply.outputs)} outputs"
                )
            results.extend(
                [
                    codec.GeneratedHypothesis(list(h.ids), h.log_prob, h.finished)
                    for h in o.hypotheses
                ]
                for o in reply.outputs
            )
        return results

    def artifact(self, kind: str = "tokenizer") -> dict[str, bytes]:
        """Files of the teacher by their relative names, checked against their hashes.

        Raises:
            TeacherRefused: this teacher does not offer ``kind``.
            TeacherProtocolError: a piece is missing, a hash differs, or a name leaves its folder.
        """
        request = pb.GetArtifactRequest(expect=self._expect, kind=requests.artifact_kind(kind))

        def attempt(timeout: float) -> dict[str, bytes]:
            call = self._stub.GetArtifact(request, timeout=timeout, metadata=self._metadata)
            return requests.assemble(call, self.address)

        return self._retrying.call(f"{self.address} GetArtifact", attempt)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when the teacher has loaded its model and answers.

        Raises:
            TeacherUnavailable: it does not within ``timeout_s``.
            TeacherMismatch, TeacherDenied: it answers, and is the wrong one or refuses us.
        """
        request = pb.GetModelInfoRequest(expect=self._expect)
        self._retrying.call(
            f"{self.address} GetModelInfo",
            lambda timeout: self._stub.GetModelInfo(
                request, timeout=timeout, metadata=self._metadata
            ),
            attempt_timeout_s=5.0,
            timeout_s=timeout_s,
            longest_wait_s=0.5,
        )

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> TeacherClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _limits(self) -> codec.ModelInfo:
        return self._info or self.model_info()

    def _unary(
        self, name: str, method: Any, request: Any, attempt_timeout_s: float | None = None
    ) -> Any:
        return self._retrying.call(
            f"{self.address} {name}",
            lambda timeout: method(request, timeout=timeout, metadata=self._metadata),
            attempt_timeout_s=attempt_timeout_s,
        )

    def _score(
        self, request: pb.ScoreRequest, positions: int
    ) -> tuple[codec.Arrays, pb.ScoreResponse]:
        reply = self._unary("Score", self._stub.Score, request)
        return requests.checked(codec.decode_scores(request.payload.kind, reply), positions), reply

    def _stream(
        self, request: pb.ScoreRequest, positions: int
    ) -> tuple[codec.Arrays, pb.ScoreResponse]:
        wrapped = pb.ScoreStreamRequest(request=request)

        def attempt(timeout: float) -> tuple[codec.Arrays, pb.ScoreResponse]:
            chunks: list[codec.Arrays] = []
            received, last = 0, None
            call = self._stub.ScoreStream(wrapped, timeout=timeout, metadata=self._metadata)
            for chunk in call:
                if chunk.first_position != received or chunk.total_positions != positions:
                    raise TeacherProtocolError(
                        f"{self.address}: a chunk begins at position {chunk.first_position} of "
                        f"{chunk.total_positions}, expected {received} of {positions}"
                    )
                last = chunk.scores
                chunks.append(codec.decode_scores(request.payload.kind, last))
                received += len(chunks[-1]["token_log_probs"])
            if last is None:
                raise TeacherProtocolError(f"{self.address}: a stream of scores without a chunk")
            return requests.checked(codec.join(chunks), positions), last

        return self._retrying.call(f"{self.address} ScoreStream", attempt)
