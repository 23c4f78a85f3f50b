"""Cleaning and splitting rules: what is dropped, what counts as the same text, what may leak."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitkd.corpora.cleaning import clean_text, has_prose, leak_key, prose_words
from imitkd.corpora.splitting import connect, split_held_out
from seq2seq.corpus import Example


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  two\n\n words\t", "two words"),
        ("no\u00a0break", "no break"),
        ("zero\u200bwidth", "zerowidth"),
        ("u\u0308ber", "über"),
        ("line\u2028separator", "line separator"),
        ("\ufeff", ""),
    ],
)
def test_clean_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name}", False),
        ("{name} {count}: 12 %", False),
        ("https://example.org/path", False),
        ("[{url}]({url})", False),
        ("`code_only`", False),
        ("Open {name}", True),
        ("[More]({url})", True),
        ("设置", True),
    ],
)
def test_has_prose(text: str, expected: bool) -> None:
    assert has_prose(text) is expected


@pytest.mark.parametrize(
    ("text", "words"), [("Turn {device} off", 2), ("a - b 12", 2), ("{one two three}", 0), ("", 0)]
)
def test_prose_words_leave_out_placeholders_and_bare_signs(text: str, words: int) -> None:
    assert prose_words(text) == words


@pytest.mark.parametrize(
    "other",
    ["low battery!", "LOW BATTERY", "“Low” battery …", "Low battery {percent}", "low-battery"],
)
def test_leak_key_sees_through_case_punctuation_and_placeholders(other: str) -> None:
    assert leak_key(other) == leak_key("Low battery")


def test_leak_key_reads_every_number_alike_but_keeps_words_apart() -> None:
    assert leak_key("Line 1") == leak_key("line 23:")
    assert leak_key("Line 1") != leak_key("Line")
    assert leak_key("{a}") != leak_key("{b}!")


def test_connect_follows_sources_and_references_through_other_pairs() -> None:
    pairs = [
        Example("Battery low", ("Akku schwach",)),
        Example("battery low.", ("Batterie schwach",)),
        Example("Weak battery", ("Batterie schwach!",)),
        Example("Window open", ("Fenster offen",)),
    ]
    first, second, third, fourth = connect(pairs)
    assert first == second == third != fourth


_WORDS = st.sampled_from(["open", "Open", "close", "door", "door!", "1", "2", "{name}", "window"])
_TEXTS = st.lists(_WORDS, min_size=1, max_size=4).map(" ".join)
_PAIRS = st.lists(
    st.builds(Example, _TEXTS, st.tuples(_TEXTS)), min_size=1, max_size=40, unique=True
)


@given(pairs=_PAIRS, seed=st.integers(0, 1000))
def test_split_leaks_nothing_and_ignores_the_order(pairs: list[Example], seed: int) -> None:
    sizes = (("test", 2), ("validation", 2))
    splits = split_held_out(pairs, sizes)
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    assert split_held_out(shuffled, sizes) == splits

    seen: dict[str, str] = {}
    for name, members in splits.items():
        for pair in members:
            for text in ("s " + leak_key(pair.source), "t " + leak_key(pair.references[0])):
                assert seen.setdefault(text, name) == name
    kept = [pair for members in splits.values() for pair in members]
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(pairs)


def test_split_takes_only_eligible_pairs_and_fills_in_order() -> None:
    pairs = [Example(f"word{'x' * n}", (f"wort{'x' * n}",)) for n in range(20)]
    splits = split_held_out(
        pairs, (("test", 6), ("validation", 6)), lambda pair: len(pair.source) > 13
    )
    assert [len(splits[name]) for name in ("test", "validation", "train")] == [6, 4, 10]
    assert all(len(p.source) > 13 for p in splits["test"] + splits["validation"])


def test_a_new_text_moves_at_most_the_edge_of_a_split() -> None:
    pairs = [Example("word" + "abcdefghij"[n % 10] * (1 + n // 10)) for n in range(100)]
    before = set(split_held_out(pairs, (("test", 20),))["test"])
    after = set(split_held_out([*pairs, Example("another")], (("test", 20),))["test"])
    assert len(before & after) >= 19
