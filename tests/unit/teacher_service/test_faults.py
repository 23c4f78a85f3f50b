"""The error table: each refusal has its status, and nothing inside leaks out."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from teacher_service import refusals
from teacher_service.faults import status_of

Code = grpc.StatusCode


def every(kind: type) -> set[type]:
    return {kind} | {deep for sub in kind.__subclasses__() for deep in every(sub)}


TABLE = {
    refusals.InvalidRequest("a.b", "why"): Code.INVALID_ARGUMENT,
    refusals.TooLarge("why"): Code.INVALID_ARGUMENT,
    refusals.Mismatch("why"): Code.FAILED_PRECONDITION,
    refusals.QueueFull("why"): Code.RESOURCE_EXHAUSTED,
    refusals.NotServing("why"): Code.UNAVAILABLE,
    refusals.Expired("why"): Code.DEADLINE_EXCEEDED,
    refusals.NotOffered("why"): Code.UNIMPLEMENTED,
    refusals.NoCredential("why"): Code.UNAUTHENTICATED,
    refusals.BadCredential("why"): Code.PERMISSION_DENIED,
    refusals.ModelFailed("incident-1"): Code.INTERNAL,
}


def test_the_table_is_complete():
    assert {type(error) for error in TABLE} == every(refusals.Refusal) - {refusals.Refusal}


@pytest.mark.parametrize("error", TABLE, ids=lambda e: type(e).__name__)
def test_each_refusal_has_its_code_and_keeps_its_message(error):
    code, message, _ = status_of(error)
    assert code is TABLE[error]
    assert message == str(error)


def test_a_full_queue_says_when_to_come_back():
    full = refusals.QueueFull("why")
    full.pushback_s = 0.25
    assert status_of(full)[2] == (("grpc-retry-pushback-ms", "250"),)
    full.pushback_s = 0.0
    assert status_of(full)[2] == (("grpc-retry-pushback-ms", "1"),)


def test_an_invalid_request_names_its_field_in_the_details():
    _, message, metadata = status_of(refusals.InvalidRequest("a.b", "why"))
    ((key, value),) = metadata
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    assert (status.code, status.message) == (3, message)
    assert [v.field for v in detail.field_violations] == ["a.b"]


def test_a_defect_is_opaque_outside_and_detailed_in_the_log(caplog):
    code, message, metadata = status_of(KeyError("a secret"))
    assert (code, metadata) == (Code.INTERNAL, ())
    assert "secret" not in message
    incident = message.rsplit(" ", 1)[1]
    assert incident in caplog.text
    assert "a secret" in caplog.text


def test_a_message_is_one_bounded_line():
    _, message, _ = status_of(refusals.NotServing("a\nb  " + "c" * 5000))
    assert message.startswith("a b c")
    assert len(message) == 1000


def test_a_callers_own_words_never_outgrow_the_header():
    for word in ("\N{GRINNING FACE}", "\N{LATIN SMALL LETTER E WITH ACUTE}", "x"):
        for error in (refusals.Mismatch(word * 5000), refusals.InvalidRequest("", word * 5000)):
            _, message, metadata = status_of(error)
            assert message == word * len(message)
            details = sum(len(value) * 4 // 3 for _, value in metadata)
            assert len(message.encode()) <= 1000 and 3 * 1000 + details < 6000
