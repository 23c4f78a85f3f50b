"""How payloads are laid out: sizes told equal sizes sent, replies of other widths are refused."""

from __future__ import annotations

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, payloads
from teacher_service.errors import TeacherProtocolError

KINDS = list(payloads.TENSORS)
V, D, K = 10, 6, 3


def made(kind: int, positions: int, dtype: str = "<f4") -> codec.Arrays:
    """Arrays of a reply in wire dtypes."""
    shapes = payloads.row_shapes(kind, K, V, D)
    return {
        name: np.ones((positions, *row), payloads.id_dtype(V) if name == "ids" else dtype)
        for name, row in shapes.items()
    }


def test_every_payload_of_the_contract_has_a_layout_a_request_and_a_result():
    assert set(KINDS) == set(pb.PayloadKind.values()) - {pb.PAYLOAD_KIND_UNSPECIFIED}
    fields = pb.ScoreResponse.DESCRIPTOR.oneofs_by_name["payload"].fields
    assert [field for field, _ in payloads.TENSORS.values()] == [f.name for f in fields]
    for (_, tensors), field in zip(payloads.TENSORS.values(), fields, strict=True):
        assert list(tensors) == [f.name for f in field.message_type.fields]


@pytest.mark.parametrize("kind", KINDS, ids=pb.PayloadKind.Name)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_position_bytes_is_what_a_reply_really_takes(kind, dtype):
    reply = codec.encode_scores(kind, made(kind, 7, dtype), "")
    field, names = payloads.TENSORS[kind]
    total = len(reply.token_log_probs.data)
    total += sum(len(getattr(getattr(reply, field), name).data) for name in names)
    shapes = payloads.row_shapes(kind, K, V, D)
    assert total == 7 * payloads.position_bytes(shapes, payloads.FLOATS[dtype], V)


def test_sixty_four_log_probs_with_ids_take_256_bytes_a_position():
    shapes = payloads.row_shapes(pb.PAYLOAD_KIND_TOP_K, 64, 4096, 512)
    # And the actual token's log-probability and the tail.
    assert payloads.position_bytes(shapes, pb.DATA_TYPE_FLOAT16, 4096) == 256 + 2 * 2
    assert payloads.position_bytes(shapes, pb.DATA_TYPE_FLOAT16, 65537) == 388


@pytest.mark.parametrize("kind", KINDS, ids=pb.PayloadKind.Name)
def test_zero_positions_keep_their_shape(kind):
    reply = codec.encode_scores(kind, made(kind, 0), "r")
    found = codec.decode_scores(kind, reply)
    empty = payloads.empty_arrays(payloads.row_shapes(kind, K, V, D))
    assert {n: (a.shape, a.dtype) for n, a in found.items()} == {
        n: (a.shape, a.dtype) for n, a in empty.items()
    }


@pytest.mark.parametrize("kind", KINDS, ids=pb.PayloadKind.Name)
def test_a_reply_of_another_width_than_asked_for_is_refused(kind):
    arrays = made(kind, 4)
    shapes = payloads.row_shapes(kind, K, V, D)
    assert payloads.result_payload(kind, arrays, shapes)
    for name in arrays:
        other = arrays | {name: np.ones((*arrays[name].shape, 2))}
        with pytest.raises(TeacherProtocolError, match=name):
            payloads.result_payload(kind, other, shapes)
