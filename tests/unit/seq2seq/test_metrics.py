"""Corpus scores equal sacreBLEU's own."""

from __future__ import annotations

import json

import pytest
import sacrebleu

from seq2seq.errors import UserError
from seq2seq.metrics import score_translations

HYPOTHESES = ["The light is on.", "No device was found in the kitchen", "Übergang: 2 Sekunden."]
FIRST = ["The light is on.", "No device found in the kitchen.", "Übergang: 3 Sekunden."]
SECOND = ["A light is on.", "There was no device in the kitchen", "Der Übergang: 2 Sekunden."]


def test_no_references_are_a_users_fault() -> None:
    with pytest.raises(UserError, match="sentence 2 of 3 has no reference"):
        score_translations(HYPOTHESES, [["a"], [], ["c"]])


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 translations and 2 lists"):
        score_translations(HYPOTHESES, [["a"], ["b"]])


def test_one_reference() -> None:
    found = score_translations(HYPOTHESES, [[r] for r in FIRST])
    assert found.bleu == sacrebleu.corpus_bleu(HYPOTHESES, [FIRST]).score
    assert found.chrf == sacrebleu.corpus_chrf(HYPOTHESES, [FIRST]).score
    assert 0 < found.bleu < 100 and 0 < found.chrf < 100


def test_two_references() -> None:
    found = score_translations(HYPOTHESES, list(zip(FIRST, SECOND, strict=True)))
    assert found.bleu == sacrebleu.corpus_bleu(HYPOTHESES, [FIRST, SECOND]).score
    assert found.chrf == sacrebleu.corpus_chrf(HYPOTHESES, [FIRST, SECOND]).score
    assert found.bleu > score_translations(HYPOTHESES, [[r] for r in FIRST]).bleu


def test_the_smallest_number_of_references_is_used_throughout() -> None:
    ragged = [[FIRST[0], SECOND[0]], [FIRST[1]], [FIRST[2], SECOND[2]]]
    assert score_translations(HYPOTHESES, ragged) == score_translations(
        HYPOTHESES, [[r] for r in FIRST]
    )


def test_scores_are_cased_and_perfect_ones_are_100() -> None:
    assert score_translations(FIRST, [[r] for r in FIRST]).bleu == pytest.approx(100)
    lower = score_translations([t.lower() for t in FIRST], [[r] for r in FIRST])
    assert lower.bleu < 70


def test_signatures_name_what_makes_scores_comparable() -> None:
    found = score_translations(HYPOTHESES, [[r] for r in FIRST])
    assert "tok:13a" in found.bleu_signature and "case:mixed" in found.bleu_signature
    assert sacrebleu.__version__ in found.bleu_signature
    assert found.chrf_signature.startswith("nrefs:1") and "nw:0" in found.chrf_signature
    assert json.loads(json.dumps(found.as_dict()))["bleu"] == found.bleu
