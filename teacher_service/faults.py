"""The one place where what went wrong becomes a gRPC status."""

from __future__ import annotations

import logging
import secrets

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from teacher_service import refusals
from teacher_service.retrying import PUSHBACK_KEY

_log = logging.getLogger("teacher_service")

Metadata = tuple[tuple[str, str | bytes], ...]

# Trailing metadata share one header frame with everything else: gRPC's default bound is 8 KiB. What
# is no ASCII travels as three characters a byte, and a caller's own words may be in a message.
_LONGEST_MESSAGE_BYTES = 1000

_CODES: tuple[tuple[type[refusals.Refusal], grpc.StatusCode], ...] = (
    (refusals.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (refusals.Mismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (refusals.QueueFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (refusals.NotServing, grpc.StatusCode.UNAVAILABLE),
    (refusals.Expired, grpc.StatusCode.DEADLINE_EXCEEDED),
    (refusals.NotOffered, grpc.StatusCode.UNIMPLEMENTED),
    (refusals.NoCredential, grpc.StatusCode.UNAUTHENTICATED),
    (refusals.BadCredential, grpc.StatusCode.PERMISSION_DENIED),
    (refusals.ModelFailed, grpc.StatusCode.INTERNAL),
)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, message and trailing metadata of a fault.

    Anything that is no refusal is a defect of the server: logged under an id, INTERNAL outside.
    """
    message = " ".join(str(error).split())
    message = message.encode()[:_LONGEST_MESSAGE_BYTES].decode(errors="ignore")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code is None:
        incident = f"incident-{secrets.token_hex(6)}"
        _log.error("%s: %s: %s", incident, type(error).__name__, error, exc_info=error)
        message = f"the server failed; its log has the detail under {incident}"
        return grpc.StatusCode.INTERNAL, message, ()
    if isinstance(error, refusals.QueueFull):
        return code, message, ((PUSHBACK_KEY, str(max(1, round(error.pushback_s * 1000)))),)
    if isinstance(error, refusals.InvalidRequest):
        return code, message, (("grpc-status-details-bin", _bad_request(code, error, message)),)
    return code, message, ()


def _bad_request(code: grpc.StatusCode, error: refusals.InvalidRequest, message: str) -> bytes:
    detail = any_pb2.Any()
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
    detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    return status.SerializeToString()
