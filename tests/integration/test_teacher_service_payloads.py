"""CANDIDATES and HIDDEN over real gRPC equal the slow oracle and FULL."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from seq2seq.model import Seq2SeqModel
from teacher_service import codec, requests
from teacher_service.candidates import pack_candidates
from teacher_service.client import TeacherClient
from teacher_service.errors import TeacherRefused
from teacher_service.projection import OutputProjection
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import (
    VOCABULARY,
    random_pairs,
    save_tiny_teacher,
    slow_log_probs,
    tiny_config,
)

SOURCES, TARGETS = random_pairs(24, seed=3)
LENGTHS = [len(t) for t in TARGETS]
SPECS = {
    "argmax": codec.ArgmaxSpec(),
    "top_k": codec.TopKSpec(5),
    "candidates": codec.CandidatesSpec(),
    "hidden": codec.HiddenSpec(),
    "full": codec.FullSpec(),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seq2SeqModel]:
    path = tmp_path_factory.mktemp("teacher") / "model"
    return path, save_tiny_teacher(path)


@pytest.fixture(scope="module")
def server(teacher) -> Iterator[ServerThread]:
    # A budget of a few sequences, small replies and chunks: every call is spread over batches,
    # requests and chunks.
    config = tiny_config(
        teacher[0],
        batch_tokens=96,
        max_request_sequences=9,
        max_unary_reply_bytes=8192,
        chunk_bytes=1024,
    )
    with ServerThread(config) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[TeacherClient]:
    with TeacherClient(server.address) as client:
        client.wait_ready(30)
        yield client


@functools.cache
def oracle(model: Seq2SeqModel, temperature: float = 1.0) -> np.ndarray:
    """``[P, V]`` float64, every position from its own full prefix, no batch, no padding."""
    pairs = zip(SOURCES, TARGETS, strict=True)
    return np.concatenate([slow_log_probs(model, s, t, temperature) for s, t in pairs])


def tolerance(expected: np.ndarray, dtype: str) -> np.ndarray:
    """The contract's bound for fp16; a few 1e-6 for fp32."""
    if dtype == "float32":
        return np.full_like(expected, 2e-5)
    return np.maximum(0.01, np.abs(expected) * 2**-10)


def some_candidates(k: int, seed: int = 0) -> list[np.ndarray]:
    """Distinct ids for every position, padding and start symbol among them."""
    draw = np.random.default_rng(seed)
    return [
        np.stack([np.zeros(k, int), *(draw.permutation(VOCABULARY)[:k] for _ in range(n))])[1:]
        for n in LENGTHS
    ]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (7, 0.5), (VOCABULARY, 2.5)])
def test_candidates_with_their_tail(client, teacher, dtype, k, temperature):
    expected = oracle(teacher[1], temperature)
    tables = some_candidates(k)
    found = client.score(
        SOURCES,
        TARGETS,
        codec.CandidatesSpec(dtype),
        temperature=temperature,
        candidates=tables,
    )
    ids = np.concatenate(tables)
    assert isinstance(found.payload, codec.Candidates)
    chosen = np.take_along_axis(expected, ids, axis=1)
    assert found.payload.log_probs_PK.shape == (sum(LENGTHS), k)
    assert (np.abs(found.payload.log_probs_PK - chosen) <= tolerance(chosen, dtype)).all()
    rest = np.exp(expected)
    np.put_along_axis(rest, ids, 0.0, axis=1)
    if k == VOCABULARY:
        assert np.isneginf(found.payload.tail_log_mass_P).all()
    else:
        tail = np.log(rest.sum(1))
        assert (np.abs(found.payload.tail_log_mass_P - tail) <= tolerance(tail, dtype)).all()
    tokens = np.concatenate([np.array(t, int) for t in TARGETS])
    actual = expected[np.arange(len(tokens)), tokens]
    assert (np.abs(found.token_log_probs_P - actual) <= tolerance(actual, dtype)).all()


def test_callers_with_candidates_of_different_k_may_ask_at_once(client, teacher):
    expected = oracle(teacher[1])

    def ask(k: int) -> None:
        tables = some_candidates(k, seed=k)
        spec = codec.CandidatesSpec("float32")
        found = client.score(SOURCES, TARGETS, spec, candidates=tables)
        chosen = np.take_along_axis(expected, np.concatenate(tables), axis=1)
        np.testing.assert_allclose(found.payload.log_probs_PK, chosen, atol=2e-5)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, [2, 3, 2, 5, 3, 2]))


def test_candidates_that_name_one_id_twice_are_refused_by_the_server(client):
    with pytest.raises(TeacherRefused, match=r"sequences\[0\].candidate_ids: row 1 .* twice"):
        client.score([[5, 1]], [[6, 7]], codec.CandidatesSpec(), candidates=[[[4, 5], [9, 9]]])


def test_candidates_of_nothing(client):
    spec = codec.CandidatesSpec()
    for count in (0, 2):
        found = client.score([[5, 1]] * count, [[]] * count, spec, candidates=[[]] * count)
        assert found.payload.log_probs_PK.shape == (0, 1)


# How far distributions recomputed from states are from FULL of the same dtype; stated in
# docs/teacher_service.md.
HIDDEN_TOLERANCE = {"float32": 5e-5, "float16": 0.02}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_distributions_recomputed_from_states_equal_full(client, teacher, dtype, temperature):
    projection = OutputProjection.of(client.artifact("output_projection"))
    found = client.score(SOURCES, TARGETS, codec.HiddenSpec(dtype), temperature=temperature)
    full = client.score(SOURCES, TARGETS, codec.FullSpec("float32"), temperature=temperature)
    assert isinstance(found.payload, codec.Hidden)
    states = found.payload.states_PD
    assert states.shape == (sum(LENGTHS), client.model_info().hidden_size)
    log_probs = projection.log_probs(states, temperature)
    error = np.abs(log_probs - full.payload.log_probs_PV)
    assert error.max() <= HIDDEN_TOLERANCE[dtype] / temperature
    # What rounding the states can do at most, whatever the model: half a unit in the last place
    # of each, all in the same direction, in a logit and in the normaliser.
    logits = np.abs(states) @ np.abs(projection.weight_VD).T * projection.logit_scale / temperature
    rounding = 2**-11 if dtype == "float16" else 2**-20
    assert (error <= 2 * rounding * logits.max(1, keepdims=True) + 1e-5).all()
    actual = full.token_log_probs_P
    assert (np.abs(found.token_log_probs_P - actual) <= tolerance(actual, dtype)).all()


def test_states_are_not_tempered(client):
    one, hot = (
        client.score(SOURCES, TARGETS, codec.HiddenSpec("float32"), temperature=t)
        for t in (1.0, 3.0)
    )
    np.testing.assert_allclose(one.payload.states_PD, hot.payload.states_PD, atol=1e-5)
    assert np.abs(one.token_log_probs_P - hot.token_log_probs_P).max() > 0.1


def test_the_projection_is_that_of_the_model(client, teacher):
    projection = OutputProjection.of(client.artifact("output_projection"))
    weight, bias = teacher[1].output_projection()
    assert (projection.weight_VD == weight.detach().numpy()).all()
    assert (projection.bias_V == bias.detach().numpy()).all()
    assert projection.logit_scale == 1.0


@pytest.mark.parametrize("name", SPECS)
def test_both_calls_serve_every_payload(server, client, name):
    """ScoreStream's chunks put together are Score's reply; chunks keep their size and order."""
    spec = requests.payload_spec(SPECS[name])
    rows = slice(0, 6)
    tables = some_candidates(VOCABULARY)[rows] if name == "candidates" else None
    packed = pack_candidates(SPECS[name], tables, LENGTHS[rows], VOCABULARY)
    request = requests.score_request(
        pb.ModelExpectation(), spec, 1.0, SOURCES[rows], TARGETS[rows], packed.tensors
    )
    with grpc.insecure_channel(server.address) as channel:
        stub = teacher_pb2_grpc.TeacherServiceStub(channel)
        whole = stub.Score(request)
        chunks = list(stub.ScoreStream(pb.ScoreStreamRequest(request=request)))
    total = sum(LENGTHS[rows])
    assert {chunk.total_positions for chunk in chunks} == {total}
    parts = [codec.decode_scores(spec.kind, chunk.scores) for chunk in chunks]
    sizes = [len(part["token_log_probs"]) for part in parts]
    assert [chunk.first_position for chunk in chunks] == np.cumsum([0, *sizes[:-1]]).tolist()
    expected = codec.decode_scores(spec.kind, whole)
    for array_name, array in codec.join(parts).items():
        np.testing.assert_allclose(array, expected[array_name], atol=0.01)
    if name in ("full", "candidates", "hidden"):
        assert len(chunks) > 1
    assert max(chunk.scores.ByteSize() for chunk in chunks) <= 1024 + 200
