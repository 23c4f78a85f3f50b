"""Bytes on the wire, exactly, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.errors import TeacherProtocolError


@pytest.mark.parametrize(
    ("dtype", "values", "code", "data"),
    [
        ("f2", [1.0, -2.5, -np.inf], pb.DATA_TYPE_FLOAT16, "003c 00c1 00fc"),
        ("f4", [1.0, -2.5], pb.DATA_TYPE_FLOAT32, "0000803f 000020c0"),
        ("u2", [1, 65535], pb.DATA_TYPE_UINT16, "0100 ffff"),
        ("u4", [1, 65536], pb.DATA_TYPE_UINT32, "01000000 00000100"),
        ("i4", [-1, 2], pb.DATA_TYPE_INT32, "ffffffff 02000000"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_golden_bytes_of_each_dtype_whatever_the_byte_order_in_memory(
    dtype, values, code, data, order
):
    message = codec.encode_tensor(np.array(values, dtype=order + dtype))
    assert (message.dtype, list(message.shape)) == (code, [len(values)])
    assert message.data == bytes.fromhex(data)
    assert codec.decode_tensor(message, "t").tolist() == values


def test_rows_are_outermost_and_views_are_copied_right():
    table = np.arange(12, dtype="<u2").reshape(3, 4)
    message = codec.encode_tensor(table[:, ::2])
    assert list(message.shape) == [3, 2]
    assert message.data == np.array([0, 2, 4, 6, 8, 10], "<u2").tobytes()


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[2], data=b"123"), "has 3 bytes, expected 4"),
        (pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[1 << 62, 8], data=b""), "has 0 bytes"),
        (pb.Tensor(dtype="DATA_TYPE_UINT16", shape=[0, 1 << 63], data=b""), "of shape"),
        (pb.Tensor(dtype="DATA_TYPE_UINT16", shape=[0] * 100, data=b""), "of shape"),
        (pb.Tensor(shape=[0], data=b""), "unknown dtype 0"),
    ],
)
def test_broken_tensors_are_refused(message, fault):
    with pytest.raises(TeacherProtocolError, match=fault):
        codec.decode_tensor(message, "t")


def arrays(positions: int, k: int = 2) -> codec.Arrays:
    return {
        "token_log_probs": np.zeros(positions, "<f2"),
        "ids": np.ones((positions, k), "<u2"),
        "log_probs": np.full((positions, k), -0.5, "<f2"),
        "tail_log_mass": np.full(positions, -np.inf, "<f2"),
    }


def test_a_reply_comes_back_as_float32_and_int32():
    reply = codec.encode_scores(pb.PAYLOAD_KIND_TOP_K, arrays(3), "r")
    found = codec.decode_scores(pb.PAYLOAD_KIND_TOP_K, reply)
    assert {n: (a.dtype.name, a.shape) for n, a in found.items()} == {
        "token_log_probs": ("float32", (3,)),
        "ids": ("int32", (3, 2)),
        "log_probs": ("float32", (3, 2)),
        "tail_log_mass": ("float32", (3,)),
    }
    assert np.isneginf(found["tail_log_mass"]).all()


def test_another_payload_than_asked_for_is_refused():
    reply = codec.encode_scores(pb.PAYLOAD_KIND_TOP_K, arrays(3), "r")
    with pytest.raises(TeacherProtocolError, match="asked for payload 'full' but got 'top_k'"):
        codec.decode_scores(pb.PAYLOAD_KIND_FULL, reply)


def test_tensors_that_disagree_about_positions_are_refused():
    broken = arrays(3) | {"tail_log_mass": np.zeros(2, "<f2")}
    reply = codec.encode_scores(pb.PAYLOAD_KIND_TOP_K, broken, "r")
    with pytest.raises(TeacherProtocolError, match="disagree"):
        codec.decode_scores(pb.PAYLOAD_KIND_TOP_K, reply)


def test_tensors_without_positions_are_refused():
    numbers = {"token_log_probs": np.array(0, "<f2"), "states": np.array(0, "<f2")}
    reply = codec.encode_scores(pb.PAYLOAD_KIND_HIDDEN, numbers, "r")
    with pytest.raises(TeacherProtocolError, match="disagree"):
        codec.decode_scores(pb.PAYLOAD_KIND_HIDDEN, reply)


@pytest.mark.parametrize(
    "wrong", [{"ids": np.zeros((3, 2), "<f2")}, {"log_probs": np.zeros((3, 2), "<u2")}]
)
def test_ids_that_are_floats_and_floats_that_are_ids_are_refused(wrong):
    reply = codec.encode_scores(pb.PAYLOAD_KIND_TOP_K, arrays(3) | wrong, "r")
    with pytest.raises(TeacherProtocolError, match="wrong dtype"):
        codec.decode_scores(pb.PAYLOAD_KIND_TOP_K, reply)


def test_offers_this_client_does_not_know_are_left_out():
    info = pb.ModelInfo(name="m", start_ids=[3], artifacts=[1, 77])
    info.payloads.add(kind="PAYLOAD_KIND_TOP_K", dtypes=[pb.DATA_TYPE_FLOAT16, 99])
    info.payloads.add(kind=88)
    found = codec.decode_model_info(info)
    assert found.payloads == {"top_k": ("float16",)}
    assert found.artifacts == ("tokenizer",)
