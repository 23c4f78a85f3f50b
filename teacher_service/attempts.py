"""One attempt of each method over one line: send, receive all, check, decode.

What breaks midway leaves nothing behind, neither answers nor an open RPC.
"""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, replies, requests
from teacher_service.fleet import SERVICE, Line, Send
from teacher_service.replies import PartScores


def model_info(request: pb.GetModelInfoRequest) -> Send[tuple[str, codec.ModelInfo]]:
    """The replica's address and what it says of itself."""

    async def attempt(line: Line, timeout: float) -> tuple[str, codec.ModelInfo]:
        reply = await line.stub.GetModelInfo(request, timeout=timeout, metadata=line.metadata)
        return line.address, codec.decode_model_info(reply.info)

    return attempt


def serving() -> Send[bool]:
    """Whether the replica's health says that it serves."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)

    async def attempt(line: Line, timeout: float) -> bool:
        stub = health_pb2_grpc.HealthStub(line.channel)
        reply = await stub.Check(request, timeout=timeout, metadata=line.metadata)
        return bool(reply.status == reply.SERVING)

    return attempt


def score(request: pb.ScoreRequest, positions: int) -> Send[PartScores]:
    """All ``positions`` by one reply."""

    async def attempt(line: Line, timeout: float) -> PartScores:
        chunks = replies.ScoreChunks(request.payload.kind, positions, line.address)
        chunks.add(await line.stub.Score(request, timeout=timeout, metadata=line.metadata))
        return chunks.whole()

    return attempt


def score_stream(request: pb.ScoreRequest, positions: int) -> Send[PartScores]:
    """All ``positions`` by chunks."""
    wrapped = pb.ScoreStreamRequest(request=request)

    async def attempt(line: Line, timeout: float) -> PartScores:
        chunks = replies.ScoreChunks(request.payload.kind, positions, line.address)
        call = line.stub.ScoreStream(wrapped, timeout=timeout, metadata=line.metadata)
        try:
            async for chunk in call:
                chunks.add_chunk(chunk)
        finally:
            call.cancel()  # a broken chunk must not leave the server sending
        return chunks.whole()

    return attempt


def generate(request: pb.GenerateRequest) -> Send[list[list[codec.GeneratedHypothesis]]]:
    """Per input its hypotheses."""

    async def attempt(line: Line, timeout: float) -> list[list[codec.GeneratedHypothesis]]:
        reply = await line.stub.Generate(request, timeout=timeout, metadata=line.metadata)
        return replies.hypotheses(reply, len(request.inputs), line.address)

    return attempt


def artifact(request: pb.GetArtifactRequest) -> Send[dict[str, bytes]]:
    """Files by name."""

    async def attempt(line: Line, timeout: float) -> dict[str, bytes]:
        call = line.stub.GetArtifact(request, timeout=timeout, metadata=line.metadata)
        try:
            pieces = [piece async for piece in call]
        finally:
            call.cancel()
        return requests.assemble(pieces, line.address)

    return attempt
