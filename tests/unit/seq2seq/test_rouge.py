"""ROUGE: the library's own, and by hand on small examples."""

from __future__ import annotations

import json
import sys

import pytest

from seq2seq.errors import UserError
from seq2seq.rouge import score_summaries

pytest.importorskip("rouge_score")

WRITTEN = ["Meetings are confirmed for Tuesday", "gas nominations", ""]
GIVEN = [
    ["meeting confirmed", "Confirmation: meeting on tuesday 10/30"],
    ["Gas nomination for May"],
    ["lunch", "Lunch tomorrow?", "anything"],
]


def test_by_hand() -> None:
    """Stemmed: gas nomin | gas nomin for may. Precision 1, recall 1/2; pairs 1 of 1 and of 3."""
    found = score_summaries(["gas nominations"], [["Gas nomination for May"]])
    assert found.rouge1 == pytest.approx(100 * 2 * 1 * 0.5 / 1.5)
    assert found.rouge2 == pytest.approx(100 * 2 * 1 * (1 / 3) / (4 / 3))
    assert found.rougeL == pytest.approx(found.rouge1)
    assert found.mean == pytest.approx((found.rouge1 + found.rouge2 + found.rougeL) / 3)


def test_equals_the_library() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = score_summaries(WRITTEN, GIVEN)
    for kind in ("rouge1", "rouge2", "rougeL"):
        each = [
            max(scorer.score(reference, text)[kind].fmeasure for reference in given)
            for text, given in zip(WRITTEN, GIVEN, strict=True)
        ]
        assert getattr(found, kind) == pytest.approx(100 * sum(each) / 3)
        assert 0 < getattr(found, kind) < 100
    assert json.loads(json.dumps(found.as_dict()))["rouge_signature"].startswith("f1|stem:porter")


def test_the_nearest_reference_counts_and_the_others_do_no_harm() -> None:
    one = score_summaries(["gas nominations"], [["gas nomination"]])
    more = score_summaries(["gas nominations"], [["quite another", "gas nomination", "gas"]])
    assert one == more and one.rouge1 == 100


def test_nothing_to_score_against_is_refused() -> None:
    with pytest.raises(UserError, match="sentence 2 of 2 has no reference"):
        score_summaries(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="at least one"):
        score_summaries([], [])


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"pip install 'imitkd\[summarisation\]'"):
        score_summaries(["a"], [["a"]])
