"""Gap sentences: which sentences are taken out of a text, and what is left of it."""

from __future__ import annotations

from collections import Counter

import pytest
from rouge_score.rouge_scorer import RougeScorer

from imitkd.corpora.gap_sentences import gap_pairs, rouge1, sentences_of
from seq2seq.corpus import Example

TEXT = (
    "The gas contract ends in May. Hi John! We want a new gas contract in May. "
    'Call me at 3.50 p.m. today. "Gas" is cheap? See you.'
)


def test_sentences_end_where_the_next_can_begin() -> None:
    assert sentences_of(TEXT) == [
        "The gas contract ends in May.",
        "Hi John!",
        "We want a new gas contract in May.",
        "Call me at 3.50 p.m. today.",
        '"Gas" is cheap?',
        "See you.",
    ]
    assert sentences_of("  ") == []


def test_the_sentences_that_share_most_with_the_rest_leave_it() -> None:
    """Six sentences have two gaps; "Hi John!" and "See you." are too short for one."""
    sentences = sentences_of(TEXT)
    assert gap_pairs(["Too short. To have one.", TEXT]) == [
        Example(" ".join(sentences[1:]), (sentences[0],)),
        Example(" ".join(sentences[:2] + sentences[3:]), (sentences[2],)),
    ]


def test_at_most_three_gaps_however_long_the_text() -> None:
    pairs = gap_pairs([" ".join(f"The number {n} is in it." for n in range(40))])
    assert len(pairs) == 3 and all(p.references[0] not in p.source for p in pairs)


def test_a_sentence_that_occurs_twice_is_no_gap() -> None:
    """Else the answer would be in the source."""
    text = "Send the gas report. Send the gas report! Nothing else is new here."
    assert [p.references for p in gap_pairs([text])] == [("Nothing else is new here.",)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("the gas the end", "the end of the gas year"), ("a b", "c d"), ("a", "a"), ("", "a")],
)
def test_rouge1_is_the_librarys(one: str, other: str) -> None:
    expected = RougeScorer(["rouge1"]).score(one, other)["rouge1"].fmeasure
    found = rouge1(Counter(one.split()), Counter(other.split()))
    assert found == pytest.approx(expected)
