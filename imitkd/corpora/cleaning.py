"""Text rules shared by the corpora: cleaning, comparison keys and counts."""

from __future__ import annotations

import re
import unicodedata

PLACEHOLDER = re.compile(r"\{[^{}]*\}")
URL = re.compile(r"(?:https?|ftp)://\S*|www\.\S+")
CODE_SPAN = re.compile(r"`[^`]*`")
KEY_REFERENCE = re.compile(r"\[%key:[^\]]*\]")
_NUMBER = re.compile(r"\d+")
_NOT_WORD = re.compile(r"[\W_]+")
_INVISIBLE = re.compile(r"[\u200b\u200c\u200e\u200f\u2060\ufeff]")


def clean_text(text: str) -> str:
    """`text` in Unicode NFC, invisible marks removed, every run of white space one space."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def has_prose(text: str) -> bool:
    """Whether a letter is left once placeholders, URLs and code spans are taken out."""
    for pattern in (PLACEHOLDER, URL, CODE_SPAN):
        text = pattern.sub(" ", text)
    return any(character.isalpha() for character in text)


def prose_words(text: str) -> int:
    """Number of white-space separated words of `text` that hold a letter outside placeholders."""
    words = PLACEHOLDER.sub(" ", text).split()
    return sum(any(character.isalpha() for character in word) for word in words)


def leak_key(text: str) -> str:
    """What two texts share when one gives the other away.

    Case, punctuation, placeholders and the values of numbers do not count: "Line 1", "line 2:"
    and "Line {n} 3" all come to "line 0". A text without any letter or digit is its own key.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    without = _NUMBER.sub("0", PLACEHOLDER.sub(" ", folded))
    return " ".join(_NOT_WORD.sub(" ", without).split()) or folded
