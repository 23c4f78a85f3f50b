"""Gap sentences: a text without one of its most telling sentences, and that sentence.

What PEGASUS learns before it learns to summarise (Zhang et al., ICML 2020, section 3.1,
"Ind-Orig"), with one gap at a time, so that a text gives several pairs and a target is short.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from seq2seq.corpus import Example

# A sentence ends where the next begins with a capital, a digit or an opening mark.
_END = re.compile(r"""(?<=[.!?])["')]?\s+(?=["'(]?[A-Z0-9])""")
_WORD = re.compile(r"\w+")
MOST_GAPS = 3
# One gap for so many sentences; one at least.
SENTENCES_A_GAP = 3
LEAST_SENTENCES = 3
LEAST_WORDS, MOST_WORDS = 3, 30


def sentences_of(text: str) -> list[str]:
    """Its sentences, by their marks."""
    return [part.strip() for part in _END.split(text) if part.strip()]


def gap_pairs(texts: Iterable[str]) -> list[Example]:
    """Pairs in the order of the texts, those of one text in the order of its sentences.

    A text of fewer than three sentences gives none, a sentence that is the text's second time
    neither: what is left would hold the answer.
    """
    return [pair for text in texts for pair in _pairs(sentences_of(text))]


def _pairs(sentences: list[str]) -> list[Example]:
    if len(sentences) < LEAST_SENTENCES:
        return []
    words = [Counter(word.lower() for word in _WORD.findall(s)) for s in sentences]
    whole: Counter[str] = sum(words, Counter())
    scored = [
        (-rouge1(own, whole - own), place)
        for place, own in enumerate(words)
        if LEAST_WORDS <= own.total() <= MOST_WORDS and words.count(own) == 1
    ]
    count = min(MOST_GAPS, max(1, len(sentences) // SENTENCES_A_GAP))
    return [
        Example(" ".join(sentences[:place] + sentences[place + 1 :]), (sentences[place],))
        for place in sorted(place for _, place in sorted(scored)[:count])
    ]


def rouge1(one: Counter[str], other: Counter[str]) -> float:
    """F measure of the words that both have."""
    return 2 * (one & other).total() / max(1, one.total() + other.total())
