"""Messages damaged at random, the same every time: whatever a broken or hostile peer may send."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec, payloads, requests
from teacher_service.candidates import pack_candidates
from tests.unit.teacher_service.support import VOCABULARY

K = 3
SPECS: tuple[codec.PayloadRequest, ...] = (
    codec.ArgmaxSpec(),
    codec.TopKSpec(K, "float32"),
    codec.CandidatesSpec(),
    codec.HiddenSpec("float32"),
    codec.FullSpec(),
)


def valid_requests(fingerprint: str) -> list[tuple[str, Message]]:
    """A method and a request it answers, of every kind there is.

    Args:
        fingerprint: of the teacher; one request expects it.
    """
    expect = pb.ModelExpectation()
    handshake = pb.ModelExpectation(fingerprint=fingerprint)
    sources, targets = [[5, 6, 1], [9, 1], [7, 7, 7, 7, 1]], [[8, 1], [], [10, 11, 12]]
    tables = [[[4, 5, 39]] * 2, [], [[0, 1, 2], [9, 8, 7], [30, 20, 10]]]
    found: list[tuple[str, Message]] = [
        ("GetModelInfo", pb.GetModelInfoRequest(expect=handshake)),
        ("GetArtifact", pb.GetArtifactRequest(kind=pb.ARTIFACT_KIND_TOKENIZER)),
        ("GetArtifact", pb.GetArtifactRequest(kind=pb.ARTIFACT_KIND_OUTPUT_PROJECTION)),
    ]
    for spec in SPECS:
        given = tables if isinstance(spec, codec.CandidatesSpec) else None
        packed = pack_candidates(spec, given, [len(t) for t in targets], VOCABULARY)
        plain = requests.payload_spec(spec)
        request = requests.score_request(expect, plain, 2.0, sources, targets, packed.tensors)
        found += [("Score", request)] * 4
        found += [("ScoreStream", pb.ScoreStreamRequest(request=request))] * 2
    limit = codec.LengthLimit(0.0, 3, 3)
    for mode in (codec.Greedy(), codec.Sample(3, 0.7, 5), codec.Beam(2)):
        request = requests.generate_request(expect, mode, limit, sources[:2], [[], [8]], [0, 1])
        found.append(("Generate", request))
    return found


def valid_replies() -> list[tuple[str, Message]]:
    """The number of a payload kind and a reply that holds it."""
    found: list[tuple[str, Message]] = []
    for kind in payloads.TENSORS:
        shapes = payloads.row_shapes(kind, K, VOCABULARY, 8)
        arrays = {
            name: np.ones((4, *row), "<u2" if name == "ids" else "<f4")
            for name, row in shapes.items()
        }
        found.append((str(kind), codec.encode_scores(kind, arrays, "r")))
    return found


def damaged(
    count: int, valid: Sequence[tuple[str, Message]], seed: int = 0
) -> Iterator[tuple[str, bytes]]:
    """``count`` messages, each a valid one with one to three faults or, one in twenty, noise.

    Most faults are in fields, so that the message still parses; one in seven is in its bytes.
    """
    draw = random.Random(seed)
    for _ in range(count):
        name, given = draw.choice(valid)
        if draw.random() < 0.05:
            yield name, draw.randbytes(draw.randrange(60))
            continue
        message = type(given)()
        message.CopyFrom(given)
        faults = draw.choices(("field", "bytes"), (6, 1), k=draw.randint(1, 3))
        for _ in range(faults.count("field")):
            _change_field(message, draw)
        data = bytearray(message.SerializeToString())
        for _ in range(faults.count("bytes")):
            _change_bytes(data, draw)
        yield name, bytes(data)


def _change_field(message: Message, draw: random.Random) -> None:
    """Change one field, here or in a message inside: another value, one more, one less, none."""
    if not message.DESCRIPTOR.fields:
        return
    present = [field for field, _ in message.ListFields()]
    field = draw.choice(present if present and draw.random() < 0.8 else message.DESCRIPTOR.fields)
    name = field.name
    if draw.random() < 0.1:
        message.ClearField(name)
    elif field.is_repeated:
        _change_list(getattr(message, name), field, draw)
    elif field.message_type is not None:
        getattr(message, name).SetInParent()
        _change_field(getattr(message, name), draw)
    else:
        setattr(message, name, _value(field, getattr(message, name), draw))


def _change_list(values: Any, field: FieldDescriptor, draw: random.Random) -> None:
    place = draw.randrange(len(values)) if values else 0
    kind = draw.randrange(4) if values else 0
    if kind == 0 and field.message_type is not None:
        _change_field(values.add(), draw)
    elif kind == 0:
        values.insert(place, _value(field, 0, draw))
    elif kind == 1:
        del values[place]
    elif kind == 2:
        values.extend([values[place]] * draw.choice((1, 2, 50)))
    elif field.message_type is not None:
        _change_field(values[place], draw)
    else:
        values[place] = _value(field, values[place], draw)


def _value(field: FieldDescriptor, old: Any, draw: random.Random) -> Any:
    """A value that the field can hold: often a bound of something."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if isinstance(old, str):
            return draw.choice(("", "x", old + "x"))
        data = bytearray(old)
        _change_bytes(data, draw)
        return bytes(data)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return draw.choice((0.0, -1.0, 0.5, 1e-3, 100.0, 1e30, float("nan"), float("inf")))
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return draw.choice((0, 1, 2, 3, 4, 5, 99, -1))
    most = {"CPPTYPE_UINT32": 2**32 - 1, "CPPTYPE_UINT64": 2**64 - 1, "CPPTYPE_INT64": 2**63 - 1}
    bounds = [most[n] for n in most if field.cpp_type == getattr(FieldDescriptor, n)]
    near = [n for n in (old - 1, old + 1) if 0 <= n <= bounds[0]]
    return draw.choice([*bounds, *near, 0, 1, 2, 39, 40, 65_536, draw.randrange(60)])


def _change_bytes(message: bytearray, draw: random.Random) -> None:
    """Change a byte or a bit; lose, double or garble a run; cut off the end."""
    if not message:
        message += draw.randbytes(1)
        return
    place = draw.randrange(len(message))
    end = min(len(message), place + draw.randint(1, 8))
    kind = draw.randrange(6)
    if kind == 0:
        message[place] = draw.randrange(256)
    elif kind == 1:
        message[place] ^= 1 << draw.randrange(8)
    elif kind == 2:
        del message[place:end]
    elif kind == 3:
        message[place:place] = message[place:end]
    elif kind == 4:
        message[place:end] = draw.randbytes(draw.randrange(12))
    else:
        del message[place:]
