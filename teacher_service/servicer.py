"""Translates between the contract and the engine; refusals are raised, ``faults`` maps them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from teacher_service import codec
from teacher_service.artifacts import Artifacts
from teacher_service.batching import Request
from teacher_service.caches import ScoreCache
from teacher_service.config import ServerConfig
from teacher_service.engine import Engine
from teacher_service.payloads import FLOATS
from teacher_service.pending import Pending
from teacher_service.refusals import InvalidRequest, NotOffered
from teacher_service.validation import Validator
from teacher_service.work import Backend, ScoreChoice


class TeacherServicer(teacher_pb2_grpc.TeacherServiceServicer):
    """One teacher over gRPC. No call may reach it before :meth:`attach`: the gate sees to that."""

    _backend: Backend
    _artifacts: Artifacts
    _engine: Engine
    _validator: Validator
    _revision: str
    scores: ScoreCache

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock

    def attach(self, backend: Backend, engine: Engine) -> None:
        """Give it the loaded model and the engine that runs it."""
        self._backend = backend
        self._artifacts = Artifacts(backend)
        self._engine = engine
        self._validator = Validator(backend.identity, self._config)
        self._revision = backend.identity.revision
        self.scores = ScoreCache(self._config.score_cache_bytes, self._revision)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetModelInfoResponse:
        """Identity, limits and offers."""
        self._validator.expectation(request.expect)
        return pb.GetModelInfoResponse(info=model_info(self._backend, self._config))

    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.GetArtifactResponse, None]:
        """Files, one after another, in pieces."""
        self._validator.expectation(request.expect)
        if request.kind not in pb.ArtifactKind.values() or not request.kind:
            raise InvalidRequest(
                "kind", f"{request.kind} is no artefact; see GetModelInfo.artifacts"
            )
        if request.kind not in self._backend.identity.artifacts:
            raise NotOffered(
                f"{pb.ArtifactKind.Name(request.kind)} is not offered by this server; see "
                "GetModelInfo.artifacts"
            )
        for file in await asyncio.to_thread(self._artifacts.files, request.kind):
            for piece in file.pieces(self._revision):
                yield piece

    async def Score(
        self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> pb.ScoreResponse:
        """All sequences in one reply."""
        work = self._validator.score(request, streamed=False)
        async with self._scoring(work, context) as pending:
            arrays = codec.join(await pending.values())
        reply = codec.encode_scores(request.payload.kind, arrays, self._revision)
        reply.timing.CopyFrom(_timing(pending))
        return reply

    async def ScoreStream(
        self, request: pb.ScoreStreamRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.ScoreStreamResponse, None]:
        """Rows in order as soon as they are there, in chunks of about ``chunk_bytes``."""
        work = self._validator.score(request.request, streamed=True)
        total = sum(entry.target_length for entry in work.entries)
        rows = max(1, self._config.chunk_bytes * total // max(1, work.reply_bytes))
        kind = request.request.payload.kind
        async with self._scoring(work, context) as pending:
            sent, held, held_rows = 0, [], 0
            for entry in work.entries:
                held.append(await pending.value(entry.index))
                held_rows += entry.target_length
                while held_rows > rows:
                    arrays = codec.join(held)
                    first = {name: array[:rows] for name, array in arrays.items()}
                    held = [{name: array[rows:] for name, array in arrays.items()}]
                    held_rows -= rows
                    scores = codec.encode_scores(kind, first, self._revision)
                    yield pb.ScoreStreamResponse(
                        first_position=sent, total_positions=total, scores=scores
                    )
                    sent += rows
            scores = codec.encode_scores(kind, codec.join(held), self._revision)
            scores.timing.CopyFrom(_timing(pending))
            yield pb.ScoreStreamResponse(first_position=sent, total_positions=total, scores=scores)

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> pb.GenerateResponse:
        """Hypotheses for every input."""
        work = self._validator.generate(request)
        pending = Pending(len(work.entries), self._remaining(context))
        async with self._admitted("generate", work, pending):
            found = await pending.values()
        reply = pb.GenerateResponse(revision=self._revision, timing=_timing(pending))
        for hypotheses in found:
            output = reply.outputs.add()
            for h in hypotheses:
                output.hypotheses.add(ids=h.ids, log_prob=h.log_prob, finished=h.finished)
        return reply

    @asynccontextmanager
    async def _scoring(
        self, work: Request, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Pending]:
        """Queue the pairs of a request that were not scored before."""
        assert isinstance(work.group, ScoreChoice)
        recall = self.scores.recall(work.group, [entry.item for entry in work.entries])
        keep = recall.keep if self.scores.cache.budget else None
        pending = Pending(len(work.entries), self._remaining(context), recall.known, keep)
        new = [entry for entry in work.entries if entry.index not in recall.known]
        if not new:
            yield pending
            return
        rest = work if len(new) == len(work.entries) else replace(work, entries=new)
        async with self._admitted("score", rest, pending):
            yield pending

    @asynccontextmanager
    async def _admitted(self, lane: str, work: Request, pending: Pending) -> AsyncIterator[None]:
        """Queue a request; whatever happens in the block, it has left the queue afterwards.

        Raises:
            TooLarge, QueueFull: not admitted.
        """
        work.deadline = self._clock() + pending.timeout_s
        work.deliver = pending.deliver
        self._engine.submit(lane, work)
        try:
            yield
        finally:
            self._engine.close(lane, work)

    def _remaining(self, context: grpc.aio.ServicerContext) -> float:
        """Seconds a call has left, by its deadline or the default one."""
        remaining = context.time_remaining()
        return self._config.default_deadline_s if remaining is None else remaining


def model_info(backend: Backend, config: ServerConfig) -> pb.ModelInfo:
    """The message: what the model is and what this server takes."""
    identity = backend.identity
    return pb.ModelInfo(
        name=identity.name,
        revision=identity.revision,
        vocabulary_size=identity.vocabulary_size,
        fingerprint=identity.fingerprint,
        pad_id=identity.pad_id,
        eos_id=identity.eos_id,
        unk_id=identity.unk_id,
        start_ids=identity.start_ids,
        max_source_length=identity.max_source_length,
        max_target_length=identity.max_target_length,
        payloads=[
            pb.PayloadOffer(kind=pb.PayloadKind.Name(kind), dtypes=FLOATS.values())
            for kind in identity.payloads
        ],
        batch_token_budget=config.batch_tokens,
        max_request_sequences=config.max_request_sequences,
        max_request_tokens=config.max_request_tokens,
        max_request_bytes=config.max_request_bytes,
        max_unary_reply_bytes=min(config.max_unary_reply_bytes, config.queue_reply_bytes),
        max_stream_reply_bytes=min(config.max_stream_reply_bytes, config.queue_reply_bytes),
        hidden_size=identity.hidden_size,
        parameters=identity.parameters,
        artifacts=[pb.ArtifactKind.Name(kind) for kind in identity.artifacts],
    )


def _timing(pending: Pending) -> pb.ServerTiming:
    return pb.ServerTiming(
        queue_seconds=pending.queue_seconds, compute_seconds=pending.compute_seconds
    )
