"""Texts in, texts out."""

from __future__ import annotations

import pytest

from seq2seq.decoding import Beam, Greedy, LengthLimit, generate
from seq2seq.transformer import Transformer
from seq2seq.translation import encode_sources, translate
from seq2seq.vocabulary import EOS_ID
from tests.builders import tiny_model, tiny_text, tiny_vocabulary

TEXTS = ["", *tiny_text(6, seed=3)]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(2, vocab_size=48, spread=0.5, max_source_length=40, max_target_length=9)


def test_an_over_long_text_loses_its_end_but_not_its_end_symbol() -> None:
    vocabulary = tiny_vocabulary()
    long = " ".join(tiny_text(3))
    whole = vocabulary.encode(long)
    assert len(whole) > 8
    found = encode_sources(vocabulary, [long, "ab", ""], 8)
    assert found == [[*whole[:7], EOS_ID], vocabulary.encode_source("ab"), [EOS_ID]]


def test_a_text_of_exactly_the_limit_stays_whole() -> None:
    vocabulary = tiny_vocabulary()
    source = vocabulary.encode_source(TEXTS[1])
    assert encode_sources(vocabulary, [TEXTS[1]], len(source)) == [source]
    assert encode_sources(vocabulary, [TEXTS[1]], len(source) - 1) != [source]


@pytest.mark.parametrize("mode", [None, Beam(3, n_best=2)])
def test_translations_are_the_decoded_best_hypotheses_in_order(
    model: Transformer, mode: Beam | None
) -> None:
    vocabulary = tiny_vocabulary()
    limit = LengthLimit(1.0, 3, 8)
    found = translate(model, vocabulary, TEXTS, mode, limit=limit, batch_tokens=30)
    sources = [vocabulary.encode_source(t) for t in TEXTS]
    expected = generate(model, sources, mode or Greedy(), limit=limit)
    assert found == [vocabulary.decode(row[0].ids) for row in expected]
    assert len(set(found)) > 2


def test_texts_longer_than_the_model_reads_are_translated_too(model: Transformer) -> None:
    assert len(translate(model, tiny_vocabulary(), [" ".join(tiny_text(30))])) == 1
    assert translate(model, tiny_vocabulary(), []) == []
