"""States from memory are the states the encoder gives, and it runs on nothing twice."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from protos.teacher.v1 import teacher_pb2 as pb
from seq2seq.batch import length_mask, pad_sequences
from teacher_service.encoder_cache import CachedEncoder
from teacher_service.scorer import Scorer
from teacher_service.work import ScoreChoice, ScoreItem
from tests.unit.teacher_service.support import random_pairs, tiny_model

MODEL = tiny_model(encoder_layers=2)
SOURCES = random_pairs(30)[0]
ROOM = 1 << 20


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows of every run of the encoder."""
    rows: list[int] = []
    encode = MODEL.encode

    def spy(source_BS: Any, lengths_B: Any) -> Any:
        rows.append(len(source_BS))
        return encode(source_BS, lengths_B)

    monkeypatch.setattr(MODEL, "encode", spy)
    return rows


def check(encoder: CachedEncoder, sources: list[list[int]]) -> None:
    """Like the model's own encoder on the same padded batch."""
    with torch.inference_mode():
        expected = type(MODEL).encode(MODEL, *pad_sequences(sources, 0))
        found = encoder.encode(sources)
    assert torch.equal(found.lengths_B, expected.lengths_B)
    assert found.states_BSD.shape == expected.states_BSD.shape
    mask = length_mask(expected.lengths_B, expected.states_BSD.shape[1])
    difference = (found.states_BSD - expected.states_BSD)[mask].abs().max()
    assert difference <= 5e-6


def test_only_what_is_not_kept_is_encoded(encoded):
    encoder = CachedEncoder(MODEL, ROOM)
    check(encoder, SOURCES[:10])
    check(encoder, SOURCES[5:15])
    check(encoder, SOURCES[:15])
    assert encoded == [10, 5]
    assert (encoder.cache.hits, encoder.cache.misses) == (20, 15)


def test_a_source_that_stands_twice_in_a_batch_is_encoded_once(encoded):
    encoder = CachedEncoder(MODEL, ROOM)
    check(encoder, [SOURCES[3], SOURCES[4], SOURCES[3], SOURCES[3]])
    assert encoded == [2]


def test_any_mix_of_kept_and_new_sources_in_any_order_and_company(encoded):
    draw = random.Random(3)
    encoder = CachedEncoder(MODEL, 20_000)
    for _ in range(40):
        check(encoder, draw.choices(SOURCES, k=draw.randint(1, 12)))
        assert encoder.cache.held <= 20_000
    assert encoder.cache.hits > 0 and encoder.cache.evictions > 0
    assert sum(encoded) == encoder.cache.misses


def test_states_are_kept_without_their_padding():
    encoder = CachedEncoder(MODEL, ROOM)
    with torch.inference_mode():
        encoder.encode([[5, 1], [5] * 11 + [1]])
    (short, long) = [value for value, _ in encoder.cache._values.values()]
    assert short.shape == (2, 16) and long.shape == (12, 16)
    assert short.untyped_storage().nbytes() == 2 * 16 * 4


def test_without_a_budget_the_encoder_runs_on_all(encoded):
    encoder = CachedEncoder(MODEL, 0)
    check(encoder, [SOURCES[0], SOURCES[0]])
    check(encoder, [SOURCES[0]])
    assert encoded == [2, 1]


def test_scores_of_known_sources_equal_those_of_new_ones():
    sources, targets = random_pairs(30)
    items = [ScoreItem(s, t) for s, t in zip(sources, targets, strict=True)]
    choice = ScoreChoice(pb.PAYLOAD_KIND_FULL, pb.DATA_TYPE_FLOAT32)
    plain = Scorer(MODEL).score(choice, items)
    caching = Scorer(MODEL, encoder_cache_bytes=ROOM)
    # Each half meets other company than in the whole, and other than the first time.
    caching.score(choice, items[:15])
    for found in (caching.score(choice, items), caching.score(choice, items[::-1])[::-1]):
        for row, expected in zip(found, plain, strict=True):
            assert abs(row["log_probs"] - expected["log_probs"]).max(initial=0) <= 1e-5
