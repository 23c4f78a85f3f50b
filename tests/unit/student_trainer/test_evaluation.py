"""Validation loss against a loop over positions; scores against sacreBLEU over slow decoding."""

from __future__ import annotations

import pytest
import sacrebleu
import torch

from seq2seq.corpus import Example
from seq2seq.decoding import Beam, LengthLimit
from seq2seq.errors import UserError
from seq2seq.transformer import Transformer
from student_trainer.evaluation import Evaluation, evaluate, validation_loss
from tests import oracles
from tests.builders import tiny_model, tiny_text, tiny_vocabulary

LINES = tiny_text(12, seed=8)
EXAMPLES = [Example(s, (t, "ab cd")) for s, t in zip(LINES[:6], LINES[6:], strict=True)]
LIMIT = LengthLimit(0.5, 2, 9)


@pytest.fixture
def model() -> Transformer:
    return tiny_model(2, vocab_size=48, spread=0.5, max_source_length=80, max_target_length=80)


def test_a_split_without_references_is_a_users_fault(model: Transformer) -> None:
    with pytest.raises(UserError, match="sentence 2 of 2 has no reference"):
        evaluate(model, tiny_vocabulary(), [EXAMPLES[0], Example("ab", ())], limit=LIMIT)


def test_validation_loss_is_the_mean_over_target_ids(model: Transformer) -> None:
    vocabulary = tiny_vocabulary()
    rows = [
        (vocabulary.encode_source(e.source), vocabulary.encode_target(e.references[0]))
        for e in EXAMPLES
    ]
    expected = oracles.mean_nll(model, rows)
    assert len({len(target) for _, target in rows}) > 3
    for batch in (1, 4, 64):
        found = validation_loss(model, vocabulary, EXAMPLES, batch)
        assert found == pytest.approx(expected, rel=1e-5)


def test_validation_runs_without_dropout_and_leaves_the_model_as_it_was() -> None:
    shape = {"vocab_size": 48, "spread": 0.5, "max_source_length": 80, "max_target_length": 80}
    noisy, plain = tiny_model(2, dropout=0.5, **shape), tiny_model(2, **shape)
    before = torch.random.get_rng_state()
    found = evaluate(noisy.train(), tiny_vocabulary(), EXAMPLES, limit=LIMIT)
    assert noisy.training and torch.equal(torch.random.get_rng_state(), before)
    expected = evaluate(plain, tiny_vocabulary(), EXAMPLES, limit=LIMIT)
    assert (found.loss, found.translations) == (expected.loss, expected.translations)
    assert not plain.training
    assert all(p.grad is None for p in noisy.parameters())


def test_over_long_texts_are_cut_rather_than_refused() -> None:
    short = tiny_model(2, vocab_size=48, max_source_length=6, max_target_length=6)
    assert validation_loss(short, tiny_vocabulary(), EXAMPLES) > 0


def test_scores_are_those_of_the_greedy_translations(model: Transformer) -> None:
    vocabulary = tiny_vocabulary()
    found = evaluate(model, vocabulary, EXAMPLES, limit=LIMIT)
    texts = []
    for example in EXAMPLES:
        source = vocabulary.encode_source(example.source)
        texts.append(vocabulary.decode(oracles.greedy(model, source, LIMIT.of(len(source)))))
    assert found.translations == texts
    references = [[e.references[i] for e in EXAMPLES] for i in range(2)]
    assert found.scores.bleu == sacrebleu.corpus_bleu(texts, references).score
    assert found.scores.chrf == sacrebleu.corpus_chrf(texts, references).score > 0
    assert found.loss == validation_loss(model, vocabulary, EXAMPLES)


def test_beam_search_may_be_asked_for(model: Transformer) -> None:
    vocabulary = tiny_vocabulary()
    beam = evaluate(model, vocabulary, EXAMPLES, Beam(3), limit=LIMIT)
    greedy = evaluate(model, vocabulary, EXAMPLES, limit=LIMIT)
    assert beam.translations != greedy.translations and beam.loss == greedy.loss


def test_sentences_per_second() -> None:
    found = evaluate(
        tiny_model(2, vocab_size=48, max_source_length=80),
        tiny_vocabulary(),
        EXAMPLES[:1],
        limit=LIMIT,
    )
    assert found.seconds > 0
    assert Evaluation(found.scores, 1.0, ["a"] * 30, 2.0, 1.0).sentences_per_s == 15


def test_the_time_is_the_median_of_the_repeats(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])
    worked = iter([0.0, 3.0, 3.0, 3.5, 4.0, 5.0])
    monkeypatch.setattr("student_trainer.evaluation.time.perf_counter", lambda: next(readings))
    monkeypatch.setattr("student_trainer.evaluation.time.process_time", lambda: next(worked))
    found = evaluate(model, tiny_vocabulary(), EXAMPLES, limit=LIMIT, repeats=3)
    assert (found.seconds, found.cpu_seconds) == (2.0, 1.0)
    assert len(found.translations) == len(EXAMPLES)
