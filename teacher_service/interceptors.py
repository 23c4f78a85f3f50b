"""What every call passes: is the server open, may the caller, and which status a fault becomes."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from teacher_service.faults import status_of
from teacher_service.refusals import BadCredential, InvalidRequest, NoCredential, NotServing

_TEACHER = "/teacher.v1."
_HEALTH = "/grpc.health.v1.Health/"

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


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


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Lets teacher calls through the gate and turns whatever they raise into a status."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the handler of a teacher call; others pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_TEACHER):
            return handler
        deserialize = _tolerant(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream), deserialize, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), deserialize, handler.response_serializer
        )

    def _unary(self, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                self._gate.enter()
                try:
                    return await behaviour(_parsed(request), context)
                finally:
                    self._gate.leave()
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # every fault must become a status
                await context.abort(*status_of(error))

        return call

    def _stream(
        self, behaviour: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., Awaitable[None]]:
        # Written by hand rather than yielded: a cancelled call then leaves the gate and the queue
        # at once, not when the generator happens to be collected.
        async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
            try:
                self._gate.enter()
                try:
                    async with aclosing(behaviour(_parsed(request), context)) as replies:
                        async for reply in replies:
                            await context.write(reply)
                finally:
                    self._gate.leave()
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # every fault must become a status
                await context.abort(*status_of(error))

        return call


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Demands a bearer token of every call but health checks."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Answer in the handler's place where the token is missing or wrong."""
        if handler_call_details.method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = metadata.get("authorization")
        if given is None:
            return _refusing(
                NoCredential("no credential; send metadata `authorization: Bearer TOKEN`")
            )
        encoded = given if isinstance(given, bytes) else given.encode()
        if not hmac.compare_digest(encoded, self._expected):
            return _refusing(BadCredential("wrong bearer token; ask whoever runs this teacher"))
        return await continuation(handler_call_details)


def _refusing(error: Exception) -> grpc.RpcMethodHandler:
    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(*status_of(error))

    return grpc.unary_unary_rpc_method_handler(refuse)


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
