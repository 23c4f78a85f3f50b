"""The paper's own corpora from files at hand: `iwslt14-de-en`, `wmt16-en-de`, `cnn-dailymail`.

Each is read in the form it is handed out in; none is downloaded.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.reading import make_pair, read_aligned, read_lines
from imitkd.corpora.store import CorpusInfo, file_sha256, fingerprint_of, overlap_note
from seq2seq.corpus import Example
from seq2seq.errors import UserError

RECIPE = 1
CLEANING = (
    "Texts are put in Unicode NFC, invisible marks are removed, every run of white space becomes"
    " one space; pairs with an empty side are left out.",
)
_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.IGNORECASE)
# IWSLT'14: the test set of the paper, and of its training talks every 25th pair (4 %).
_TALKS = ("dev2010", "tst2010", "tst2011", "tst2012")
_HELD_OUT_EVERY = 25
_URL_LISTS = {"train": "all_train.txt", "validation": "all_val.txt", "test": "all_test.txt"}
_SPLIT_NAMES = {"train": ("train",), "validation": ("valid", "validation", "val", "dev"),
                "test": ("test",)}  # fmt: skip

Splits = dict[str, list[Example]]


@dataclass(frozen=True)
class PaperCorpus:
    """One of them.

    Attributes:
        read: the splits from a directory of its files; None where it does not hold such.
        wanted: the files it looks for, for people.
    """

    summary: str
    source_language: str
    target_language: str
    licence: str
    wanted: str
    read: Callable[[Path], Splits | None]


def build(name: str, directory: Path) -> Splits:
    """The splits of a corpus, empty sides left out.

    Raises:
        UserError: the directory does not hold its files, or they are damaged.
    """
    corpus = CORPORA[name]
    found = corpus.read(directory) if directory.is_dir() else None
    if found is None:
        raise UserError(
            f"'{directory}' does not hold {name}; --from wants a folder with {corpus.wanted}"
        )
    kept = {s: [p for p in pairs if p.source and p.references] for s, pairs in found.items()}
    for split, pairs in kept.items():
        if not pairs:
            raise UserError(f"'{directory}' has no {split} pairs of {name}; get its files again")
    return kept


def describe(name: str, directory: Path) -> CorpusInfo:
    """The description of the corpus in these files."""
    corpus = CORPORA[name]
    files = sorted(p for p in directory.rglob("*") if p.is_file()) if directory.is_dir() else []
    digests = {str(p.relative_to(directory)): file_sha256(p) for p in files}
    return CorpusInfo(
        name=name,
        source_language=corpus.source_language,
        target_language=corpus.target_language,
        licence=corpus.licence,
        origin=f"files at hand: {corpus.summary}",
        cleaning=CLEANING,
        fingerprint=fingerprint_of({"name": name, "recipe": RECIPE, "files": digests}),
    )


def notes(splits: Mapping[str, list[Example]]) -> tuple[str, ...]:
    """What train shares with the rest."""
    return tuple(overlap_note(splits, leak_key))


# ------------------------------------------------------------------------------- parallel text


def _plain(directory: Path, source: str, target: str) -> Splits | None:
    """``train.de train.en valid.de ...``, also .gz: the form that preparation scripts leave."""
    splits = {}
    for split, stems in _SPLIT_NAMES.items():
        pair = next((p for s in stems if (p := _sides(directory, s, source, target))), None)
        if pair is None:
            return None
        splits[split] = read_aligned(pair[0], [pair[1]])
    return splits


def _sides(directory: Path, stem: str, source: str, target: str) -> tuple[Path, Path] | None:
    for end in ("", ".gz"):
        sides = tuple(directory / f"{stem}.{language}{end}" for language in (source, target))
        if all(side.is_file() for side in sides):
            return sides[0], sides[1]
    return None


def _segments(path: Path) -> list[str]:
    """The texts of ``<seg id="1">`` elements, in order, one a line: XML of talks, SGML of news."""
    return [
        html.unescape(match[1]) for line in read_lines(path) for match in _SEGMENT.finditer(line)
    ]


def _zipped(source: Path, target: Path) -> list[Example]:
    sides = _segments(source), _segments(target)
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"'{source}' has {len(sides[0])} segments and '{target}' has {len(sides[1])}; "
            "get the files again"
        )
    return [make_pair(s, [t]) for s, t in zip(*sides, strict=True)]


def _iwslt(directory: Path) -> Splits | None:
    """``train.tags.de-en.{de,en}`` with ``IWSLT14.TED.SET.de-en.{de,en}.xml``, or plain files."""
    tagged = [directory / f"train.tags.de-en.{language}" for language in ("de", "en")]
    if not all(path.is_file() for path in tagged):
        return _plain(directory, "de", "en")
    # Lines of titles, speakers and the like are tags on both sides.
    pairs = [
        pair for pair in read_aligned(tagged[0], [tagged[1]]) if not pair.source.startswith("<")
    ]
    test = []
    for talks in _TALKS:
        sides = [
            directory / f"IWSLT14.TED.{talks}.de-en.{language}.xml" for language in ("de", "en")
        ]
        if all(side.is_file() for side in sides):
            test += _zipped(*sides)
    held_out = pairs[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    del pairs[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    return {"train": pairs, "validation": held_out, "test": test}


def _wmt(directory: Path) -> Splits | None:
    """``NAME.de-en.{en,de}`` of each source of training text, ``newstestYEAR`` as SGML or plain
    text; or plain ``train``, ``valid`` and ``test``."""
    training = [
        path.with_name(path.name.replace(".de-en.en", ".de-en.de"))
        for path in sorted(directory.glob("*.de-en.en*"))
    ]
    if not training:
        return _plain(directory, "en", "de")
    train = []
    for german in training:
        english = german.with_name(german.name.replace(".de-en.de", ".de-en.en"))
        train += read_aligned(english, [german])
    news = {year: _news(directory, year) for year in ("2013", "2014", "2015", "2016")}
    found = [pairs for pairs in news.values() if pairs]
    if len(found) < 2:
        return None
    return {"train": train, "validation": found[-2], "test": found[-1]}


def _news(directory: Path, year: str) -> list[Example]:
    source = directory / f"newstest{year}-ende-src.en.sgm"
    target = directory / f"newstest{year}-ende-ref.de.sgm"
    if source.is_file() and target.is_file():
        return _zipped(source, target)
    sides = _sides(directory, f"newstest{year}", "en", "de")
    return read_aligned(sides[0], [sides[1]]) if sides else []


# ----------------------------------------------------------------------------------- summaries


def _cnndm(directory: Path) -> Splits | None:
    """``*.story`` with lists of URLs that name the splits, or ``{train,validation,test}.jsonl``
    with ``article`` and ``highlights``."""
    lists = {split: directory / name for split, name in _URL_LISTS.items()}
    if all(path.is_file() for path in lists.values()):
        stories = {path.stem: path for path in sorted(directory.rglob("*.story"))}
        return {split: list(_stories(path, stories)) for split, path in lists.items()}
    found = {}
    for split, stems in _SPLIT_NAMES.items():
        names = [f"{stem}.jsonl{end}" for stem in stems for end in ("", ".gz")]
        path = next((p for n in names if (p := directory / n).is_file()), None)
        if path is None:
            return None
        found[split] = list(_articles(path))
    return found


def _stories(urls: Path, stories: Mapping[str, Path]) -> Iterator[Example]:
    """The stories of a split: each file is named by the SHA-1 of its URL."""
    for line in read_lines(urls):
        path = stories.get(hashlib.sha1(line.strip().encode(), usedforsecurity=False).hexdigest())
        if path is not None:
            yield read_story(path)


def read_story(path: Path) -> Example:
    """A ``.story`` file: the article, then each sentence of its summary behind ``@highlight``."""
    article: list[str] = []
    highlights: list[str] = []
    in_summary = False
    for line in read_lines(path):
        if line.strip() == "@highlight":
            in_summary = True
        elif line.strip():
            (highlights if in_summary else article).append(line.strip())
    return make_pair(" ".join(article), [_sentences(highlights)])


def _articles(path: Path) -> Iterator[Example]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
            article, highlights = row["article"], row["highlights"].split("\n")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"'{path}' line {number} is no object with 'article' and 'highlights' ({error!r})"
            ) from None
        yield make_pair(article, [_sentences(highlights)])


def _sentences(highlights: Sequence[str]) -> str:
    """One text; a sentence without an end gets its full stop."""
    stripped = [h.strip() for h in highlights if h.strip()]
    return " ".join(h if h[-1] in ".!?\"'" else f"{h}." for h in stripped)


CORPORA: Mapping[str, PaperCorpus] = {
    "iwslt14-de-en": PaperCorpus(
        "IWSLT'14 talks, German to English",
        "de",
        "en",
        "CC BY-NC-ND 4.0",
        "train.tags.de-en.{de,en} and IWSLT14.TED.*.{de,en}.xml, or {train,valid,test}.{de,en}",
        _iwslt,
    ),
    "wmt16-en-de": PaperCorpus(
        "WMT'16 news, English to German",
        "en",
        "de",
        "as of each source of WMT",
        "*.de-en.{en,de} and newstest*-ende-{src.en,ref.de}.sgm, or {train,valid,test}.{en,de}",
        _wmt,
    ),
    "cnn-dailymail": PaperCorpus(
        "CNN and Daily Mail articles and their highlights, English",
        "en",
        "en",
        "as of the publishers",
        "*.story and all_{train,val,test}.txt, or {train,validation,test}.jsonl",
        _cnndm,
    ),
}
