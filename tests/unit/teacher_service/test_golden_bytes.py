"""Whole messages, byte for byte: a client written years ago must read what is sent today.

Not to be renewed when a test here fails: the wire has changed, and that is the defect.
"""

from __future__ import annotations

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, requests
from teacher_service.candidate_validation import read_candidates
from teacher_service.candidates import pack_candidates

INF = float("inf")

# In half precision -0.25 is b400, -0.5 b800, -1 bc00, -1.5 be00, -2 c000, -3 c200, -4 c400,
# -8 c800, 1 3c00, 65504 7bff, -inf fc00; little-endian below.
ACTUAL_16 = "120b 08011201021a04 00b800c0"  # token_log_probs, FLOAT16 [2]
ACTUAL_32 = "120f 08021201021a08 000000bf000000c0"
TAIL_16 = "0b 08011201021a04 00fc00bc"
TAIL_32 = "0f 08021201021a08 000080ff000080bf"
PAIRS_16 = "10 0801120202021a08 00b400be00bc00c8"  # log_probs, FLOAT16 [2, 2]
PAIRS_32 = "18 0802120202021a10 000080be0000c0bf000080bf000000c1"

REPLIES = {
    ("argmax", "<f2", "<u2"): f"""0a0172 {ACTUAL_16} 1a1a
        0a0b 08031201021a04 07000200
        120b 08011201021a04 00b400be""",
    ("argmax", "<f4", "<u4"): f"""0a0172 {ACTUAL_32} 1a22
        0a0f 08041201021a08 0700000002000000
        120f 08021201021a08 000080be0000c0bf""",
    ("top_k", "<f2", "<u2"): f"""0a0172 {ACTUAL_16} 2231
        0a10 0803120202021a08 0700020000002c01
        12 {PAIRS_16} 1a {TAIL_16}""",
    ("top_k", "<f4", "<u4"): f"""0a0172 {ACTUAL_32} 2245
        0a18 0804120202021a10 0700000002000000000000002c010000
        12 {PAIRS_32} 1a {TAIL_32}""",
    ("candidates", "<f2", ""): f"0a0172 {ACTUAL_16} 2a1f 0a {PAIRS_16} 12 {TAIL_16}",
    ("candidates", "<f4", ""): f"0a0172 {ACTUAL_32} 2a2b 0a {PAIRS_32} 12 {TAIL_32}",
    ("hidden", "<f2", ""): f"""0a0172 {ACTUAL_16} 3212
        0a10 0801120202021a08 003c00c20000ff7b""",
    ("hidden", "<f4", ""): f"""0a0172 {ACTUAL_32} 321a
        0a18 0802120202021a10 0000803f000040c00000000000e07f47""",
    ("full", "<f2", ""): f"""0a0172 {ACTUAL_16} 3a16
        0a14 0801120202031a0c 00b400be00fc00bc00c800c4""",
    ("full", "<f4", ""): f"""0a0172 {ACTUAL_32} 3a22
        0a20 0802120202031a18 000080be0000c0bf000080ff000080bf000000c1000080c0""",
}
VALUES = {
    "argmax": {"ids": [7, 2], "log_probs": [-0.25, -1.5]},
    "top_k": {
        "ids": [[7, 2], [0, 300]],
        "log_probs": [[-0.25, -1.5], [-1.0, -8.0]],
        "tail_log_mass": [-INF, -1.0],
    },
    "candidates": {"log_probs": [[-0.25, -1.5], [-1.0, -8.0]], "tail_log_mass": [-INF, -1.0]},
    "hidden": {"states": [[1.0, -3.0], [0.0, 65504.0]]},
    "full": {"log_probs": [[-0.25, -1.5, -INF], [-1.0, -8.0, -4.0]]},
}
KINDS = {name: pb.PayloadKind.Value(f"PAYLOAD_KIND_{name.upper()}") for name in VALUES}


def wire(message: pb.ScoreRequest | pb.ScoreResponse) -> str:
    return message.SerializeToString(deterministic=True).hex()


def plain(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: "".join(case))
def test_a_reply_of_each_payload_and_dtype(case):
    name, floats, ids = case
    values = {"token_log_probs": [-0.5, -2.0]} | VALUES[name]
    arrays = {n: np.array(v, ids if n == "ids" else floats) for n, v in values.items()}
    golden = plain(REPLIES[case])
    assert wire(codec.encode_scores(KINDS[name], arrays, "r")) == golden
    reply = pb.ScoreResponse.FromString(bytes.fromhex(golden))
    found = codec.decode_scores(KINDS[name], reply)
    assert {n: a.tolist() for n, a in found.items()} == values
    assert reply.revision == "r"


def test_the_cases_cover_every_payload_and_dtype():
    dtypes = {tensor for _, *tensor in map(tuple, REPLIES) for tensor in tensor}
    assert dtypes == {"<f2", "<f4", "<u2", "<u4", ""}
    assert {name for name, *_ in REPLIES} == set(KINDS)
    assert set(KINDS.values()) == set(pb.PayloadKind.values()) - {0}


# expect: fingerprint "f"; the source 5, 300, 1; the target 6, 1.
HEAD = "0a030a0166"
SEQUENCE = "0a0405ac0201 12020601"
REQUESTS = {
    "argmax": (codec.ArgmaxSpec(), f"{HEAD} 120a {SEQUENCE} 1a0408011801 25 0000803f"),
    "top_k": (
        codec.TopKSpec(300, "float32"),
        f"{HEAD} 120a {SEQUENCE} 1a07080210ac021802 25 0000803f",
    ),
    "hidden": (codec.HiddenSpec("float32"), f"{HEAD} 120a {SEQUENCE} 1a0408041802 25 0000803f"),
    "full": (codec.FullSpec(), f"{HEAD} 120a {SEQUENCE} 1a0408051801 25 0000803f"),
}
CANDIDATES = {
    40: f"{HEAD} 121c {SEQUENCE} 1a10 0803120202021a08 0400050009000700 1a0408031801 25 0000803f",
    70_000: f"""{HEAD} 1224 {SEQUENCE} 1a18 0804120202021a10 04000000050000000900000007000000
        1a0408031801 25 0000803f""",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_for_each_payload(name):
    spec, golden = REQUESTS[name]
    request = requests.score_request(
        pb.ModelExpectation(fingerprint="f"),
        requests.payload_spec(spec),
        1.0,
        [[5, 300, 1]],
        [[6, 1]],
    )
    assert wire(request) == plain(golden)


@pytest.mark.parametrize("vocabulary_size", CANDIDATES)
def test_a_request_with_candidates(vocabulary_size):
    spec = codec.CandidatesSpec()
    packed = pack_candidates(spec, [[[4, 5], [9, 7]]], [2], vocabulary_size)
    request = requests.score_request(
        pb.ModelExpectation(fingerprint="f"),
        requests.payload_spec(spec),
        1.0,
        [[5, 300, 1]],
        [[6, 1]],
        packed.tensors,
    )
    golden = plain(CANDIDATES[vocabulary_size])
    assert wire(request) == golden
    given = pb.ScoreRequest.FromString(bytes.fromhex(golden))
    tables, _ = read_candidates(given.sequences, vocabulary_size)
    assert tables[0].tolist() == [[4, 5], [9, 7]]


def test_candidates_in_signed_ids_are_read_too():
    golden = plain(f"{HEAD} 1224 {SEQUENCE} 1a18 0805120202021a10") + (
        "04000000050000000900000007000000"
    )
    given = pb.ScoreRequest.FromString(bytes.fromhex(golden))
    assert read_candidates(given.sequences, 40)[0][0].tolist() == [[4, 5], [9, 7]]
