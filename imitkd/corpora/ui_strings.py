"""`ui-strings-en-XX`: user-interface texts of Home Assistant and their translations.

The published wheel of Home Assistant holds one JSON file of texts per component and language; texts
are matched by key. All that is needed is a Python package index. The rules are in `CLEANING`.
`ui-strings-en-XX+sources` trains on the English texts without a translation as well, and on those
of the wheel of Home Assistant's frontend.
"""

from __future__ import annotations

import json
import re
import statistics
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imitkd.corpora.cleaning import (
    KEY_REFERENCE,
    clean_text,
    has_prose,
    leak_key,
    prose_words,
)
from imitkd.corpora.splitting import order_key, split_held_out
from imitkd.corpora.store import CorpusInfo, fingerprint_of
from seq2seq.corpus import Example
from seq2seq.errors import UserError

REQUIREMENT = "homeassistant==2026.2.3"
WHEEL_PYTHON = "3.14"  # the wheel asks for it; only its data are read
WHEEL_NAME = "homeassistant-2026.2.3-py3-none-any.whl"
FRONTEND_REQUIREMENT = "home-assistant-frontend==20260128.6"
FRONTEND_NAME = "home_assistant_frontend-20260128.6-py3-none-any.whl"
SHA256 = {
    WHEEL_NAME: "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
    FRONTEND_NAME: "1fd307078b9584a7cfa3dce2e57443975223c9458a797af795253c3c4726ffbb",
}
LICENCE = "Apache-2.0"
PREFIX, WITH_SOURCES = "ui-strings-en-", "+sources"
RECIPE = 1  # raise it whenever the rules below change what comes out
# Files are named by locale; a plain language code stands for one of them where they differ.
LOCALES = {"zh": "zh-Hans"}

MAX_WORDS = 60
MIN_TEST_WORDS = 3
MAX_RATIO = 2.5
RATIO_OFFSET = 10  # characters; keeps short labels and abbreviations from being dropped
HELD_OUT = 1000
MAX_HELD_OUT_SHARE = 0.1

CLEANING = (
    "English and translated texts are matched by component and key; nested objects are flattened.",
    "Texts are put in Unicode NFC, invisible marks are removed, every run of white space (line"
    " breaks too) becomes one space.",
    "Dropped: empty texts; pairs whose two texts are equal; texts with a key reference"
    " ([%key:...%]); texts with no letter outside placeholders ({...}), URLs and code spans.",
    f"Dropped: pairs with more than {MAX_WORDS} words (split at white space) on either side.",
    f"Dropped: pairs whose ratio of lengths, (target characters + {RATIO_OFFSET}) / (English"
    f" characters + {RATIO_OFFSET}), is more than {MAX_RATIO} times above or below the median ratio"
    " of the corpus.",
    "An English text with several translations keeps the most frequent one (ties: the first in"
    " code-point order), so every English text occurs once and has one reference.",
    "Split by text: two pairs belong together when their English or their translated texts are"
    " equal after NFKC, case folding and removal of placeholders and punctuation, with every number"
    " read as 0; directly or through other pairs.",
    f"test and then validation take the pairs of {MIN_TEST_WORDS} English words or more (words with"
    " a letter, placeholders not counted) with the smallest SHA-256 of the English text so"
    " normalised, at most one of those that belong together; the others of its kind are left out"
    f" of every split. {HELD_OUT} pairs each, or a tenth of the candidates where that is less.",
    "train is all the rest. Every file is sorted by the SHA-256 of the English text.",
)
SOURCES_CLEANING = (
    "train also takes the English texts, of any component and of the frontend, that are in no pair,"
    " by the same rules and without references; none whose text, compared as for the split, is that"
    " of a pair held out, or left out beside one.",
)

_MEMBER = re.compile(r"homeassistant/components/([^/]+)/translations/([^/]+)\.json")
_FRONTEND = re.compile(r"hass_frontend/static/translations/(?:[^/]+/)?en-[0-9a-f]{32}\.json")


def flatten(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path, text) of every text in nested JSON objects, in file order."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, (*prefix, key))
    elif isinstance(tree, str):
        yield prefix, tree


def locale_of(language: str) -> str:
    """The locale whose files serve as `language`."""
    return LOCALES.get(language, language)


def read_wheel(wheel: Path, language: str) -> list[tuple[str, str]]:
    """All (English, translated) texts with the same component and key, uncleaned.

    Raises UserError when the file is no such wheel or has nothing in that language.
    """
    locale = locale_of(language)
    with _members(wheel) as (archive, members):
        _check_locale(wheel, locale, members)
        pairs = []
        for component in sorted(members["en"].keys() & members[locale].keys()):
            english = dict(flatten(_load(archive, members["en"][component])))
            translated = dict(flatten(_load(archive, members[locale][component])))
            pairs += [(english[k], translated[k]) for k in english if k in translated]
        return pairs


def read_english(wheel: Path) -> list[str]:
    """All English texts, uncleaned. Raises UserError when the file is no such wheel."""
    with _members(wheel) as (archive, members):
        return _texts(archive, (members["en"][component] for component in sorted(members["en"])))


def read_frontend(wheel: Path) -> list[str]:
    """All English texts of a wheel of the frontend. Raises UserError when the file is none."""
    with _opened(wheel) as archive:
        names = sorted(filter(_FRONTEND.fullmatch, archive.namelist()))
        if not names:
            raise UserError(
                f"'{wheel}' holds no hass_frontend/static/translations/en-*.json; "
                f"name a wheel of Home Assistant's frontend such as {FRONTEND_NAME}"
            )
        return _texts(archive, names)


def _texts(archive: zipfile.ZipFile, names: Iterable[str]) -> list[str]:
    return [text for name in names for _, text in flatten(_load(archive, name))]


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"'{wheel}' does not exist; name the wheel with --from") from None
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise UserError(
            f"'{wheel}' is not a readable wheel ({error}); name another with --from"
        ) from None


@contextmanager
def _members(wheel: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, dict[str, str]]]]:
    """The archive, and locale -> component -> name of its file there."""
    with _opened(wheel) as archive:
        members: dict[str, dict[str, str]] = {}
        for name in archive.namelist():
            if match := _MEMBER.fullmatch(name):
                members.setdefault(match[2], {})[match[1]] = name
        if "en" not in members:
            raise UserError(
                f"'{wheel}' holds no homeassistant/components/*/translations/en.json; "
                f"name a wheel of Home Assistant such as {WHEEL_NAME}"
            )
        yield archive, members


def _load(archive: zipfile.ZipFile, name: str) -> Any:
    return json.loads(archive.read(name).decode("utf-8"))


def _check_locale(wheel: Path, locale: str, members: dict[str, dict[str, str]]) -> None:
    if locale not in members or locale == "en":
        have = ", ".join(sorted(members.keys() - {"en"}))
        raise UserError(f"'{wheel.name}' has no texts in '{locale}'; it has: {have}")


def _acceptable(text: str) -> bool:
    if not text or KEY_REFERENCE.search(text) or not has_prose(text):
        return False
    return len(text.split()) <= MAX_WORDS


def _ratio(pair: Example) -> float:
    target = pair.references[0]
    return (len(target) + RATIO_OFFSET) / (len(pair.source) + RATIO_OFFSET)


def clean_pairs(raw: list[tuple[str, str]]) -> list[Example]:
    """One pair per English text by the rules in `CLEANING`, sorted by text."""
    variants: dict[str, Counter[str]] = {}
    for english, translated in raw:
        source, target = clean_text(english), clean_text(translated)
        if source != target and _acceptable(source) and _acceptable(target):
            variants.setdefault(source, Counter())[target] += 1
    pairs = [
        Example(source, (min(counts, key=lambda text: (-counts[text], text)),))
        for source, counts in sorted(variants.items())
    ]
    if not pairs:
        return []
    middle = statistics.median(_ratio(pair) for pair in pairs)
    return [p for p in pairs if middle / MAX_RATIO <= _ratio(p) <= middle * MAX_RATIO]


def build(
    wheel: Path, language: str, alone: Callable[[], Iterable[str]] | None = None
) -> dict[str, list[Example]]:
    """The splits of `ui-strings-en-<language>` from a wheel.

    With `alone`, which returns English texts, those of `+sources`. Raises UserError when too little
    is left to hold anything out.
    """
    pairs = clean_pairs(read_wheel(wheel, language))
    candidates = [pair for pair in pairs if prose_words(pair.source) >= MIN_TEST_WORDS]
    size = min(HELD_OUT, int(len(candidates) * MAX_HELD_OUT_SHARE))
    if size < 1:
        raise UserError(
            f"'{wheel.name}' has only {len(candidates)} usable texts of {MIN_TEST_WORDS} words or "
            f"more in '{language}'; at least {round(1 / MAX_HELD_OUT_SHARE)} are needed: "
            "choose another language"
        )
    splits = split_held_out(
        pairs,
        (("test", size), ("validation", size)),
        lambda pair: prose_words(pair.source) >= MIN_TEST_WORDS,
    )
    if alone is not None:
        splits["train"] += sources_alone(alone(), pairs, splits["train"])
        splits["train"].sort(key=order_key)
    return {name: splits[name] for name in ("train", "validation", "test")}


def sources_alone(
    raw: Iterable[str], pairs: Iterable[Example], train: Iterable[Example]
) -> list[Example]:
    """English texts of no pair, without references, that give nothing away of the held-out ones.

    Args:
        pairs: all of the corpus, before it was split.
        train: what its training split has of them.
    """
    paired = {pair.source for pair in pairs}
    kept_away = {leak_key(source) for source in paired}
    kept_away -= {leak_key(pair.source) for pair in train}
    texts = sorted({clean_text(text) for text in raw} - paired)
    return [Example(t) for t in texts if _acceptable(t) and leak_key(t) not in kept_away]


def describe(name: str, language: str, wheels: Mapping[str, str]) -> CorpusInfo:
    """The description of a corpus built from these wheels, name -> sha256, Home Assistant first."""
    locale = locale_of(language)
    (main, sha256), *more = wheels.items()
    origin = (
        f"homeassistant/components/*/translations/{{en,{locale}}}.json of {main} "
        f"(sha256 {sha256}), a wheel of Home Assistant on the Python package index"
    )
    for other, digest in more:
        origin += (
            f"; hass_frontend/static/translations/**/en-*.json of {other} (sha256 {digest}), "
            "a wheel of its frontend there"
        )
    made_of = {"name": name, "recipe": RECIPE, "wheel": sha256} | dict(more)
    return CorpusInfo(
        name=name,
        source_language="en",
        target_language=language,
        licence=LICENCE,
        origin=origin,
        cleaning=CLEANING + (SOURCES_CLEANING if name.endswith(WITH_SOURCES) else ()),
        fingerprint=fingerprint_of(made_of),
    )
