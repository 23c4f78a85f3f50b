"""Whether one server serves now: one question of ``grpc.health.v1``, for health checks. No torch.

It needs no token, asks nobody else and tries once: whoever probes decides what a failure means.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from teacher_service.channel import Credentials, channel_arguments
from teacher_service.errors import TeacherUnavailable


def probe(address: str, credentials: Credentials, timeout_s: float) -> str:
    """The status that a server gives itself: ``SERVING`` or ``NOT_SERVING``.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``.
        timeout_s: for connecting and answering together.

    Raises:
        TeacherUnavailable: nobody answers there in time, or with another certificate.
    """
    secured, options = channel_arguments(credentials)
    channel = (
        grpc.insecure_channel(address, options)
        if secured is None
        else grpc.secure_channel(address, secured, options)
    )
    with channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise TeacherUnavailable(
                f"{address} does not answer ({error.code().name}: {error.details()})"
            ) from error
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
