"""What every call passes: is the server open, may the caller, and which status a fault becomes."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.faults import Metadata, status_of
from teacher_service.refusals import (
    BadCredential,
    Expired,
    InvalidRequest,
    NoCredential,
    NotServing,
    Refusal,
)
from teacher_service.reports import CallReport

_TEACHER = "/teacher.v1."
_SERVICE = "/teacher.v1.TeacherService/"
_METHODS = {method.name for method in pb.DESCRIPTOR.services_by_name["TeacherService"].methods}
_HEALTH = "/grpc.health.v1.Health/"

T = TypeVar("T")
Report = Callable[[CallReport], None]

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


def _nobody(report: CallReport) -> None:
    """Reports that nobody counts."""


class Gate:
    """Whether teacher calls are let in, and how many are inside.

    Attributes:
        closed_because: None while open.
        inside: calls whose handler has not returned.
    """

    def __init__(self, closed_because: str | None) -> None:
        self.closed_because = closed_because
        self.inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        """Raises NotServing while closed."""
        if self.closed_because is not None:
            raise NotServing(self.closed_because)
        self.inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """Undo one :meth:`enter`."""
        self.inside -= 1
        if self.inside == 0:
            self._empty.set()

    async def emptied(self) -> None:
        """Return when nobody is inside."""
        await self._empty.wait()


class _Malformed:
    """Stands in for a message that could not be parsed."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Sender:
    """Sends the messages of one reply, one after another.

    A message that the caller does not read stays under way whatever becomes of the handler, and
    until it has gone gRPC takes no status.
    """

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._sending: asyncio.Future[None] | None = None

    async def send(self, message: Any) -> None:
        self._sending = asyncio.create_task(self._write(message))
        await asyncio.shield(self._sending)

    async def _write(self, message: Any) -> None:
        await self._context.write(message)

    async def idle(self) -> None:
        """Return when nothing is under way."""
        if self._sending is not None:
            await asyncio.wait({self._sending})


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Lets teacher calls through the gate and turns whatever they raise into a status.

    Args:
        report: told how each call ended, before the caller is.
        default_deadline_s: how long a call that brings no deadline may take, the reading of its
            reply included: what a stalled reader holds would be held for ever.
    """

    def __init__(
        self, gate: Gate, report: Report = _nobody, default_deadline_s: float | None = None
    ) -> None:
        self._gate = gate
        self._report = report
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the handler of a teacher call; others pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_TEACHER):
            return handler
        deserialize = _tolerant(handler.request_deserializer)
        name = _method_name(handler_call_details.method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(name, handler.unary_stream), deserialize, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(name, handler.unary_unary), deserialize, handler.response_serializer
        )

    def _unary(
        self, name: str, behaviour: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            def work() -> Awaitable[Any]:
                return behaviour(_parsed(request), context)

            return await self._answered(name, request, context, _Sender(context), work)

        return call

    def _stream(
        self, name: str, behaviour: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., Awaitable[None]]:
        # Written by hand rather than yielded: a cancelled call then leaves the gate and the queue
        # at once, not when the generator happens to be collected.
        async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
            sender = _Sender(context)

            async def work() -> None:
                async with aclosing(behaviour(_parsed(request), context)) as replies:
                    async for reply in replies:
                        await sender.send(reply)

            await self._answered(name, request, context, sender, work)

        return call

    async def _answered(
        self,
        name: str,
        request: Any,
        context: grpc.aio.ServicerContext,
        sender: _Sender,
        work: Callable[[], Awaitable[T]],
    ) -> T | None:
        """What ``work`` comes to, with gate, status and report around it; None where it failed."""
        started = time.monotonic()

        def ended(code: grpc.StatusCode, error: Exception | None = None) -> None:
            seconds = time.monotonic() - started
            self._report(CallReport(name, _mode(request), code.name, seconds, error))

        async def refuse(error: Exception) -> None:
            code, message, metadata = status_of(error)
            ended(code, error)
            await sender.idle()
            _end(context, code, message, metadata)

        bound = self._default_deadline_s if context.time_remaining() is None else None
        limit = asyncio.timeout(bound)
        try:
            self._gate.enter()
            try:
                async with limit:
                    reply = await work()
            finally:
                self._gate.leave()
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            late = remaining is not None and remaining <= 0
            ended(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:  # every fault must become a status
            await refuse(_too_slow(bound) if limit.expired() else error)
            return None
        ended(grpc.StatusCode.OK)
        return reply


def _end(
    context: grpc.aio.ServicerContext, code: grpc.StatusCode, message: str, metadata: Metadata
) -> None:
    """Give a call the status it ends with when its handler returns.

    Not by way of ``context.abort``: what that raises carries frames of gRPC's compiled part, which
    the garbage collector has met after they were freed.
    """
    context.set_trailing_metadata(metadata)
    context.set_code(code)
    context.set_details(message)


def _too_slow(seconds: float | None) -> Expired:
    return Expired(
        f"not done within the {seconds:g} s of a call that brings no deadline; set one, ask for "
        "less at once, or add a replica"
    )


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Demands a bearer token of every call but health checks.

    Args:
        report: told of every call that is refused.
    """

    def __init__(self, token: str, report: Report = _nobody) -> None:
        self._expected = f"Bearer {token}".encode()
        self._report = report

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Answer in the handler's place where the token is missing or wrong."""
        handler = await continuation(handler_call_details)
        if handler_call_details.method.startswith(_HEALTH):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = metadata.get("authorization")
        if given is None:
            error: Refusal = NoCredential(
                "no credential; send metadata `authorization: Bearer TOKEN`"
            )
        elif not hmac.compare_digest(_bytes(given), self._expected):
            error = BadCredential("wrong bearer token; ask whoever runs this teacher")
        else:
            return handler
        streams = handler is not None and handler.response_streaming
        return self._refusing(_method_name(handler_call_details.method), error, streams)

    def _refusing(self, name: str, error: Refusal, streams: bool) -> grpc.RpcMethodHandler:
        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
            code, message, metadata = status_of(error)
            self._report(CallReport(name, "", code.name, 0.0, error))
            _end(context, code, message, metadata)

        # Of the kind that is called: a stream that is refused has no message.
        if streams:
            return grpc.unary_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _method_name(path: str) -> str:
    """``Score`` of ``/teacher.v1.TeacherService/Score``.

    What a caller made up must not become a label: there is no end of such names.
    """
    name = path.removeprefix(_SERVICE)
    return name if name in _METHODS else "other"


def _mode(request: Any) -> str:
    """Payload kind or decoding asked for, as far as the contract knows it."""
    if isinstance(request, pb.GenerateRequest):
        return request.WhichOneof("mode") or ""
    if isinstance(request, pb.ScoreStreamRequest):
        request = request.request
    if isinstance(request, pb.ScoreRequest) and request.payload.kind in pb.PayloadKind.values():
        return pb.PayloadKind.Name(request.payload.kind).removeprefix("PAYLOAD_KIND_").lower()
    return ""


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC answers INTERNAL where a message cannot be parsed; it is the caller's fault."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:  # protobuf's DecodeError, or ValueError for bad UTF-8
            return _Malformed(error)

    return parse


def _parsed(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise InvalidRequest("", f"not a message of this contract ({request.error})")
    return request
