"""Every rule of the contract that a request can break."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.config import ServerConfig
from teacher_service.refusals import InvalidRequest, Mismatch, NotOffered, TooLarge
from teacher_service.validation import Validator
from teacher_service.work import GenerateChoice, GenerateItem, Identity, ScoreChoice, ScoreItem

IDENTITY = Identity(
    name="tiny",
    revision="sha256:r",
    fingerprint="sha256:f",
    vocabulary_size=40,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    start_ids=(3,),
    max_source_length=6,
    max_target_length=5,
    hidden_size=8,
    parameters=1,
)


def validator(**change) -> Validator:
    return Validator(IDENTITY, ServerConfig(model_dir=Path("m"), **change))


def score(source=(5, 1), target=(6, 1), **fields) -> pb.ScoreRequest:
    fields = {"payload": pb.PayloadSpec(kind="PAYLOAD_KIND_ARGMAX")} | fields
    return pb.ScoreRequest(
        sequences=[pb.ScoreSequence(source_ids=source, target_ids=target)], **fields
    )


def test_behind_the_end_of_a_source_stands_what_the_tokenizer_puts_there():
    german = Validator(replace(IDENTITY, source_tail=1), ServerConfig(model_dir=Path("m")))
    assert german.score(score(source=(5, 1, 30)), streamed=False).entries[0].source_length == 3
    for source, target in (((5, 1, 6, 30), (6,)), ((5, 1, 30), (1, 30))):
        with pytest.raises(InvalidRequest, match="goes on after the end symbol 1"):
            german.score(score(source, target), streamed=False)


def generate(source=(5, 1), prefix=(), key=None, **fields) -> pb.GenerateRequest:
    given = pb.GenerateInput(source_ids=source, prefix_ids=prefix, key=key)
    if not fields.keys() & {"greedy", "sampling", "beam"}:
        fields["greedy"] = pb.GreedySearch()
    return pb.GenerateRequest(inputs=[given], **fields)


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        ((), (6,), r"sequences\[0\].source_ids: empty"),
        ((5, 40), (6,), r"source_ids: id 40 is outside the vocabulary 0 .. 39"),
        ((5, 1), (6, 99), r"target_ids: id 99 is outside the vocabulary 0 .. 39"),
        ((5, 0, 1), (6,), r"source_ids: holds the padding id 0 at 1"),
        ((5, 1), (6, 1, 0), r"target_ids: holds the padding id 0 at 2"),
        ((5, 1, 1), (6,), r"source_ids: goes on after the end symbol 1 at 1"),
        ((5, 1), (1, 6), r"target_ids: goes on after the end symbol 1 at 0"),
        ((5,) * 7, (6,), r"source_ids: 7 ids are more than the model's limit of 6"),
        ((5, 1), (6,) * 6, r"target_ids: 6 ids are more than the model's limit of 5"),
    ],
)
def test_ids_that_break_an_alignment_rule(source, target, fault):
    with pytest.raises(InvalidRequest, match=fault):
        validator().score(score(source, target), streamed=False)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((5, 1), ()),
        ((5, 6), (6, 7)),
        ((5, 6, 7, 8, 9, 1), (6, 7, 8, 9, 1)),
        ((1,), (1,)),
        ((2,), (3,)),
    ],
)
def test_what_is_allowed_empty_unfinished_and_at_the_limits(source, target):
    work = validator().score(score(source, target), streamed=False)
    assert work.group == ScoreChoice(pb.PAYLOAD_KIND_ARGMAX, pb.DATA_TYPE_FLOAT16, 1.0, 0)
    (entry,) = work.entries
    assert entry.item == ScoreItem(list(source), list(target))
    assert (entry.source_length, entry.target_length) == (len(source), len(target))
    assert work.reply_bytes == 6 * len(target)


def spec(**fields) -> pb.PayloadSpec:
    return pb.PayloadSpec(**fields)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"payload": spec()}, "payload.kind: not set"),
        ({"payload": spec(kind=77)}, "payload.kind: unknown value 77"),
        ({"payload": spec(kind="PAYLOAD_KIND_TOP_K")}, "payload.k: 0 is less than 1"),
        ({"payload": spec(kind="PAYLOAD_KIND_FULL", k=3)}, "payload.k: 3 is set"),
        ({"payload": spec(kind="PAYLOAD_KIND_CANDIDATES", k=3)}, "payload.k: 3 is set"),
        ({"payload": spec(kind="PAYLOAD_KIND_CANDIDATES")}, r"\[0\].candidate_ids: missing"),
        ({"payload": spec(kind="PAYLOAD_KIND_FULL", dtype="DATA_TYPE_UINT16")}, "payload.dtype"),
        ({"temperature": 0.0}, "temperature: 0 is outside 0.01 .. 100"),
        ({"temperature": -1.0}, "temperature: -1 is outside"),
        ({"temperature": float("nan")}, "temperature: nan is outside"),
        ({"temperature": float("inf")}, "temperature: inf is outside"),
    ],
)
def test_payloads_and_temperatures_out_of_range(fields, fault):
    with pytest.raises(InvalidRequest, match=fault):
        validator().score(score(**fields), streamed=False)


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_the_temperature_bounds_are_inside(temperature):
    work = validator().score(score(temperature=temperature), streamed=False)
    assert work.group.temperature == pytest.approx(temperature)


def test_a_payload_that_this_teacher_does_not_offer():
    few = replace(IDENTITY, payloads=(pb.PAYLOAD_KIND_TOP_K, pb.PAYLOAD_KIND_FULL))
    guard = Validator(few, ServerConfig(model_dir=Path("m")))
    with pytest.raises(NotOffered, match="PAYLOAD_KIND_HIDDEN is not offered"):
        guard.score(score(payload=spec(kind="PAYLOAD_KIND_HIDDEN")), streamed=False)


@pytest.mark.parametrize("kind", ["ARGMAX", "TOP_K", "HIDDEN", "FULL"])
def test_candidates_for_another_payload_are_refused(kind):
    request = score(payload=spec(kind=f"PAYLOAD_KIND_{kind}", k=3 * (kind == "TOP_K")))
    request.sequences[0].candidate_ids.shape.append(2)
    with pytest.raises(InvalidRequest, match="candidate_ids: set, but only"):
        validator().score(request, streamed=False)


def candidates(*tables, target=(6, 1), dtype="u2") -> pb.ScoreRequest:
    request = pb.ScoreRequest(payload=spec(kind="PAYLOAD_KIND_CANDIDATES"))
    for table in tables:
        request.sequences.add(
            source_ids=(5, 1),
            target_ids=target,
            candidate_ids=codec.encode_tensor(np.array(table, dtype)),
        )
    return request


def test_candidates_of_one_k_share_a_group_and_of_another_do_not():
    two = validator().score(candidates([[4, 5], [6, 7]], [[9, 8], [0, 39]]), streamed=False)
    again = validator().score(candidates([[8, 5], [6, 8]], dtype="i4"), streamed=False)
    three = validator().score(candidates([[4, 5, 6], [6, 7, 8]]), streamed=False)
    assert two.group == again.group == ScoreChoice(pb.PAYLOAD_KIND_CANDIDATES, 1, 1.0, 2)
    assert three.group == ScoreChoice(pb.PAYLOAD_KIND_CANDIDATES, 1, 1.0, 3)
    assert [entry.item.candidates.tolist() for entry in two.entries] == [
        [[4, 5], [6, 7]],
        [[9, 8], [0, 39]],
    ]
    assert two.reply_bytes == 4 * (2 * 2 + 2 * 2)


def test_the_states_count_with_their_width_and_dtype():
    for dtype, number in ((pb.DATA_TYPE_FLOAT16, 2), (pb.DATA_TYPE_FLOAT32, 4)):
        request = score(payload=spec(kind="PAYLOAD_KIND_HIDDEN", dtype=dtype))
        work = validator().score(request, streamed=False)
        assert work.reply_bytes == 2 * (8 + 1) * number


def test_k_is_cut_to_the_vocabulary_and_counts_as_cut():
    request = score(payload=spec(kind="PAYLOAD_KIND_TOP_K", k=1 << 31))
    work = validator().score(request, streamed=False)
    assert work.group.k == 40
    assert work.reply_bytes == 2 * (40 * 4 + 4)


def test_no_sequence_and_too_many_sequences():
    with pytest.raises(InvalidRequest, match="sequences: empty"):
        validator().score(pb.ScoreRequest(payload=score().payload), streamed=False)
    request = score()
    request.sequences.extend(request.sequences[:] * 2)
    with pytest.raises(
        InvalidRequest, match="sequences: 3 are more than max_request_sequences of 2"
    ):
        validator(max_request_sequences=2).score(request, streamed=False)


def test_too_many_ids():
    with pytest.raises(
        TooLarge, match="4 source and target ids, more than max_request_tokens of 3"
    ):
        validator(max_request_tokens=3).score(score(), streamed=False)
    with pytest.raises(
        TooLarge, match="4 source and target ids, more than max_request_tokens of 3"
    ):
        validator(max_request_tokens=3).generate(generate(prefix=(6, 7), beam=pb.BeamSearch()))


def test_a_reply_too_large_for_one_message_is_pointed_to_the_stream():
    tight = validator(max_unary_reply_bytes=1024, max_stream_reply_bytes=2048)
    request = score(payload=spec(kind="PAYLOAD_KIND_FULL"))
    request.sequences.extend(request.sequences[:] * 9)
    with pytest.raises(TooLarge, match="1640 bytes, more than 1024; use ScoreStream"):
        tight.score(request, streamed=False)
    assert tight.score(request, streamed=True).reply_bytes == 1640
    request.sequences.extend(request.sequences[:])
    with pytest.raises(TooLarge, match="3280 bytes, more than 2048; send several"):
        tight.score(request, streamed=True)


@pytest.mark.parametrize(
    ("expect", "fault"),
    [
        ({"fingerprint": "sha256:x"}, "expected vocabulary sha256:x but this teacher .* sha256:f"),
        ({"revision": "sha256:x"}, "expected revision sha256:x but this teacher .* sha256:r"),
    ],
)
def test_another_teacher_than_expected_is_refused_everywhere(expect, fault):
    expect = pb.ModelExpectation(**expect)
    with pytest.raises(Mismatch, match=fault):
        validator().score(score(expect=expect), streamed=False)
    with pytest.raises(Mismatch, match=fault):
        validator().generate(generate(expect=expect))


def test_the_expected_teacher_is_accepted():
    expect = pb.ModelExpectation(fingerprint="sha256:f", revision="sha256:r")
    assert validator().score(score(expect=expect), streamed=False).entries


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (generate(source=()), r"inputs\[0\].source_ids: empty"),
        (generate(prefix=(6, 1)), r"inputs\[0\].prefix_ids: holds the end symbol"),
        (generate(prefix=(6, 0)), "prefix_ids: holds the padding id"),
        (generate(prefix=(6,) * 6), "6 ids are more than the input's length limit of 5"),
        (generate(limit=pb.LengthLimit(cap=2), prefix=(6,) * 3), "length limit of 2"),
        (generate(limit=pb.LengthLimit(cap=0)), "limit.cap"),
        (generate(limit=pb.LengthLimit(ratio=float("nan"))), "limit.ratio: nan"),
        (generate(limit=pb.LengthLimit(ratio=-1)), "limit.ratio: -1"),
        (generate(beam=pb.BeamSearch(size=0)), "beam.size: 0 is outside 1 .. 64"),
        (generate(beam=pb.BeamSearch(size=65)), "beam.size: 65 is outside 1 .. 64"),
        (
            generate(beam=pb.BeamSearch(size=2, n_best=3)),
            "beam.n_best: 3 is outside 1 .. beam.size 2",
        ),
        (generate(beam=pb.BeamSearch(length_penalty=float("nan"))), "beam.length_penalty: nan"),
        (generate(sampling=pb.Sampling(temperature=0)), "sampling.temperature: 0 is outside"),
        (pb.GenerateRequest(inputs=generate().inputs), "mode: not set"),
        (pb.GenerateRequest(greedy=pb.GreedySearch()), "inputs: empty"),
    ],
)
def test_generations_out_of_range(request_, fault):
    with pytest.raises(InvalidRequest, match=fault):
        validator().generate(request_)


def test_defaults_of_a_generation():
    work = validator().generate(generate(beam=pb.BeamSearch()))
    assert work.group == GenerateChoice(codec.Beam(5, 1, 1.0), 2.0, 5, 5)
    (entry,) = work.entries
    assert entry.item == GenerateItem([5, 1], [], 0)
    assert (entry.source_length, entry.target_length) == (10, 25)


def test_a_key_of_zero_is_a_key_and_not_an_absent_one():
    request = generate(key=0, sampling=pb.Sampling(seed=3))
    request.inputs.add(source_ids=[5, 1])
    request.inputs.add(source_ids=[5, 1], key=0)
    entries = validator().generate(request).entries
    assert [entry.item.key for entry in entries] == [0, 1, 0]
