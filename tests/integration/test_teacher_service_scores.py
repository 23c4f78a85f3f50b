"""Scores and generations over real gRPC equal the same model asked locally."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seq2seq import decoding
from seq2seq.model import Seq2SeqModel
from seq2seq.vocabulary import load_vocabulary
from teacher_service import codec
from teacher_service.client import TeacherClient
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import (
    LONGEST,
    VOCABULARY,
    random_pairs,
    save_tiny_teacher,
    slow_log_probs,
    tiny_config,
)

SOURCES, TARGETS = random_pairs(40)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seq2SeqModel]:
    path = tmp_path_factory.mktemp("teacher") / "model"
    return path, save_tiny_teacher(path)


@pytest.fixture(scope="module")
def client(teacher) -> Iterator[TeacherClient]:
    # A budget of a few sequences: every call below is spread over many batches.
    config = tiny_config(teacher[0], batch_tokens=96, generate_batch_tokens=400)
    with ServerThread(config) as server, TeacherClient(server.address) as client:
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


def check_actual(found: codec.ScoreResult, expected: np.ndarray, dtype: str) -> None:
    tokens = np.concatenate([np.array(t, int) for t in TARGETS])
    actual = expected[np.arange(len(tokens)), tokens]
    assert found.lengths_B.tolist() == [len(t) for t in TARGETS]
    assert found.token_log_probs_P.dtype == np.float32
    assert (np.abs(found.token_log_probs_P - actual) <= tolerance(actual, dtype)).all()


def test_the_pairs_cover_empty_targets_targets_at_the_limit_and_unfinished_ones():
    lengths = [len(t) for t in TARGETS]
    assert min(lengths) == 0
    assert max(lengths) == LONGEST == max(map(len, SOURCES))
    assert {t[-1] == 1 for t in TARGETS if t} == {True, False}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_full_by_stream(client, teacher, dtype, temperature):
    expected = oracle(teacher[1], temperature)
    found = client.score(SOURCES, TARGETS, codec.FullSpec(dtype), temperature=temperature)
    assert isinstance(found.payload, codec.Full)
    assert found.payload.log_probs_PV.shape == expected.shape
    assert (np.abs(found.payload.log_probs_PV - expected) <= tolerance(expected, dtype)).all()
    check_actual(found, expected, dtype)
    assert found.revision == client.model_info().revision
    assert found.compute_seconds > 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("k", [1, 7, VOCABULARY, 1000])
def test_top_k_with_its_tail(client, teacher, dtype, temperature, k):
    expected = oracle(teacher[1], temperature)
    found = client.score(SOURCES, TARGETS, codec.TopKSpec(k, dtype), temperature=temperature)
    top = found.payload
    assert isinstance(top, codec.TopK)
    k = min(k, VOCABULARY)
    assert top.ids_PK.shape == top.log_probs_PK.shape == (len(expected), k)
    order = np.argsort(-expected, axis=1, kind="stable")
    assert (top.ids_PK == order[:, :k]).all()
    values = np.take_along_axis(expected, order, axis=1)
    assert (np.abs(top.log_probs_PK - values[:, :k]) <= tolerance(values[:, :k], dtype)).all()
    if k == VOCABULARY:
        assert np.isneginf(top.tail_log_mass_P).all()
    else:
        tail = np.log(np.exp(values[:, k:]).sum(1))
        assert (np.abs(top.tail_log_mass_P - tail) <= tolerance(tail, dtype)).all()
    check_actual(found, expected, dtype)


def test_argmax(client, teacher):
    expected = oracle(teacher[1])
    found = client.score(SOURCES, TARGETS, codec.ArgmaxSpec())
    assert isinstance(found.payload, codec.Argmax)
    assert (found.payload.ids_P == expected.argmax(1)).all()
    best = expected.max(1)
    assert (np.abs(found.payload.log_probs_P - best) <= tolerance(best, "float16")).all()
    check_actual(found, expected, "float16")


def test_the_last_position_of_an_unfinished_target_gets_no_distribution_after_it(client):
    found = client.score([[5, 1]], [[6] * LONGEST], codec.ArgmaxSpec())
    assert found.lengths_B.tolist() == [LONGEST]
    assert found.payload.ids_P.shape == (LONGEST,)


@pytest.mark.parametrize(
    "payload",
    [codec.ArgmaxSpec(), codec.TopKSpec(5), codec.FullSpec()],
    ids=lambda p: type(p).__name__,
)
def test_empty_targets_give_zero_positions_and_no_sequences_give_nothing(client, payload):
    shapes = {
        codec.ArgmaxSpec: [(0,), (0,)],
        codec.TopKSpec: [(0, 5), (0, 5), (0,)],
        codec.FullSpec: [(0, VOCABULARY)],
    }[type(payload)]
    for sources, targets in (([[5, 1], [6, 1]], [[], []]), ([], [])):
        found = client.score(sources, targets, payload)
        assert found.lengths_B.tolist() == [0] * len(sources)
        assert found.token_log_probs_P.shape == (0,)
        assert [a.shape for a in vars(found.payload).values()] == shapes
        assert found.revision == client.model_info().revision


def test_company_never_changes_a_result_beyond_tolerance(client):
    together = client.score(SOURCES, TARGETS, codec.FullSpec("float32"))
    with ThreadPoolExecutor(8) as threads:
        alone = list(
            threads.map(
                lambda pair: client.score([pair[0]], [pair[1]], codec.FullSpec("float32")),
                zip(SOURCES, TARGETS, strict=True),
            )
        )
    found = np.concatenate([result.payload.log_probs_PV for result in alone])
    np.testing.assert_allclose(found, together.payload.log_probs_PV, atol=1e-5)


def test_numpy_ids_are_as_good_as_lists(client):
    as_arrays = ([np.array(s) for s in SOURCES], [np.array(t, np.int32) for t in TARGETS])
    found = client.score(*as_arrays, codec.ArgmaxSpec())
    expected = client.score(SOURCES, TARGETS, codec.ArgmaxSpec())
    assert (found.payload.ids_P == expected.payload.ids_P).all()


def test_a_call_over_the_servers_limits_is_cut_into_requests_and_put_together(teacher):
    config = tiny_config(
        teacher[0],
        max_request_sequences=7,
        max_request_tokens=60,
        max_unary_reply_bytes=1024,
        max_stream_reply_bytes=4096,
        chunk_bytes=1024,
    )
    expected = oracle(teacher[1])
    with ServerThread(config) as server, TeacherClient(server.address) as client:
        client.wait_ready(30)
        full = client.score(SOURCES, TARGETS, codec.FullSpec("float32"))
        top = client.score(SOURCES, TARGETS, codec.TopKSpec(VOCABULARY, "float32"))
    np.testing.assert_allclose(full.payload.log_probs_PV, expected, atol=2e-5)
    check_actual(top, expected, "float32")


@pytest.mark.parametrize(
    ("mode", "local"),
    [
        (codec.Greedy(), decoding.Greedy()),
        (codec.Sample(5, 0.7, 11), decoding.Sample(5, 0.7, 11)),
        (codec.Sample(0, 1.0, 2**63), decoding.Sample(0, 1.0, 2**63)),
        (codec.Beam(4, 3, 0.6), decoding.Beam(4, 3, 0.6)),
    ],
    ids=["greedy", "top-k sampling", "ancestral sampling", "beam"],
)
@pytest.mark.parametrize("with_prefixes", [False, True])
def test_generations_equal_local_ones(client, teacher, mode, local, with_prefixes):
    model = teacher[1]
    prefixes = [[7 + i % 20] * (i % 4) for i in range(len(SOURCES))] if with_prefixes else None
    found = client.generate(SOURCES, mode, prefixes=prefixes, request_size=9)
    expected = decoding.generate(
        model, SOURCES, local, limit=decoding.LengthLimit(cap=LONGEST), prefixes=prefixes
    )
    assert [[h.ids for h in row] for row in found] == [[h.ids for h in row] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert [h.finished for h in row] == [h.finished for h in wanted]
        assert [h.log_prob for h in row] == pytest.approx([h.log_prob for h in wanted], abs=1e-4)


def test_sampling_follows_keys_not_company(client):
    mode = codec.Sample(0, 1.5, seed=3)
    first = client.generate(SOURCES[:8], mode)
    again = client.generate(SOURCES[4:8], mode, keys=[4, 5, 6, 7])
    other = client.generate(SOURCES[4:8], mode, keys=[14, 15, 16, 17])
    assert again == first[4:]
    assert other != first[4:]


def test_the_length_limit_is_kept(client):
    found = client.generate(SOURCES, codec.Greedy(), limit=codec.LengthLimit(0.0, 3, 9))
    assert max(len(row[0].ids) for row in found) <= 3


def test_a_tokenizer_can_be_had_from_the_address_alone(client, tmp_path):
    for name, content in client.artifact("tokenizer").items():
        (tmp_path / name).write_bytes(content)
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.fingerprint == client.model_info().fingerprint


def test_model_info_says_what_the_model_is(client, teacher):
    info = client.model_info()
    assert (info.name, info.vocabulary_size, info.start_ids) == ("tiny", VOCABULARY, (3,))
    assert (info.pad_id, info.eos_id, info.unk_id) == (0, 1, 2)
    assert (info.max_source_length, info.max_target_length) == (LONGEST, LONGEST)
    assert info.parameters == teacher[1].parameter_count()
    both = ("float16", "float32")
    assert info.payloads == dict.fromkeys(("argmax", "top_k", "candidates", "hidden", "full"), both)
    assert info.artifacts == ("tokenizer", "output_projection")
