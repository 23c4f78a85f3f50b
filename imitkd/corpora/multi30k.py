"""`multi30k-de-en`, `multi30k-en-de`: image captions (Elliott et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.download import Retry, download
from imitkd.corpora.reading import read_aligned
from imitkd.corpora.store import CorpusInfo, file_sha256, fingerprint_of, overlap_note
from seq2seq.corpus import Example
from seq2seq.errors import UserError

BASE_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
LICENCE = "captions of Flickr30k images: research use"
PREFIX = "multi30k-"
DIRECTIONS = {"multi30k-de-en": ("de", "en"), "multi30k-en-de": ("en", "de")}
RECIPE = 1
FILES = {
    "train": "train",
    "validation": "val",
    "test": "test_2016_flickr",
    "test_2017": "test_2017_flickr",
}
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
}
CLEANING = (
    "The published splits in their order; pairs with an empty side are left out.",
    "Texts are put in Unicode NFC, invisible marks are removed, every run of white space becomes"
    " one space.",
)


def file_names() -> list[str]:
    """The eight files of the corpus."""
    return [f"{stem}.{language}.gz" for stem in FILES.values() for language in ("de", "en")]


def fetch(
    directory: Path, base_url: str, sha256: Mapping[str, str], retry: Retry | None = None
) -> None:
    """Download what is missing of the corpus into `directory`; digests that are known are held."""
    for name in file_names():
        url = f"{base_url.rstrip('/')}/{name}"
        download(url, directory / name, sha256=sha256.get(name), retry=retry)


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of the corpus. Raises UserError when one is missing."""
    missing = [name for name in file_names() if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"'{directory}' lacks {', '.join(missing)}; --from wants the raw files of multi30k"
        )
    return {name: file_sha256(directory / name) for name in file_names()}


def build(directory: Path, name: str) -> dict[str, list[Example]]:
    """The splits of the corpus from its files."""
    source, target = DIRECTIONS[name]
    splits = {}
    for split, stem in FILES.items():
        pairs = read_aligned(directory / f"{stem}.{source}.gz", [directory / f"{stem}.{target}.gz"])
        splits[split] = [pair for pair in pairs if pair.source and pair.references]
    return splits


def describe(name: str, found: Mapping[str, str]) -> CorpusInfo:
    """The description of the corpus made of files with the digests `found`."""
    source, target = DIRECTIONS[name]
    published = dict(found) == SHA256
    return CorpusInfo(
        name=name,
        source_language=source,
        target_language=target,
        licence=LICENCE,
        origin="github.com/multi30k/dataset, data/task1/raw"
        + ("" if published else " (files that differ from the published ones)"),
        cleaning=CLEANING,
        fingerprint=fingerprint_of({"name": name, "recipe": RECIPE, "files": dict(found)}),
    )


def notes(splits: Mapping[str, list[Example]]) -> tuple[str, ...]:
    """What the published split shares between train and the rest."""
    return tuple(overlap_note(splits, leak_key))
