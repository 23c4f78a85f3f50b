"""One's own text as a corpus: line-aligned files, TSV or JSONL, given splits or a hash split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.reading import read_aligned, read_table
from imitkd.corpora.splitting import split_held_out
from imitkd.corpora.store import CorpusInfo, file_sha256, fingerprint_of, overlap_note
from seq2seq.corpus import Example
from seq2seq.errors import UserError

RECIPE = 1
CLEANING = (
    "Texts are put in Unicode NFC, invisible marks are removed, every run of white space becomes"
    " one space.",
    "Left out: rows without a source; rows whose references are empty in a file that has a column"
    " for them; rows of a split that repeat an earlier one.",
)
HASH_SPLIT = (
    "Held-out rows are those with the smallest SHA-256 of the source (after NFKC, case folding and"
    " removal of placeholders and punctuation, with every number read as 0); of rows that share a"
    " source or a reference so normalised one is held out and the others are left out."
)


@dataclass(frozen=True)
class TextFiles:
    """Where the rows of one split are: a `table` (.tsv, .jsonl), or `source` with any number of
    line-aligned `targets` (none: source-only)."""

    table: Path | None = None
    source: Path | None = None
    targets: tuple[Path, ...] = ()

    def paths(self) -> list[Path]:
        """All files named."""
        return [path for path in (self.table, self.source, *self.targets) if path is not None]

    def read(self) -> list[Example]:
        """The rows, cleaned. Raises UserError for anything wrong with the files."""
        if self.table is not None:
            return _usable(read_table(self.table), self.table)
        if self.source is None:
            raise UserError("a target file needs its source file; add --source-file")
        return _usable(read_aligned(self.source, self.targets), self.source)


@dataclass(frozen=True)
class OwnFiles:
    """A corpus of one's own. Splits that are not given are cut from `train` by hash:
    `held_out` = {"validation": rows, "test": rows}."""

    train: TextFiles
    given: Mapping[str, TextFiles] = field(default_factory=dict)
    held_out: Mapping[str, int] = field(default_factory=dict)
    source_language: str = "und"
    target_language: str = "und"
    licence: str = "not stated"


def _usable(rows: list[Example], path: Path) -> list[Example]:
    """Rows with a source, and with references if any row of the file has some; no repetitions."""
    with_references = any(pair.references for pair in rows)
    kept = dict.fromkeys(p for p in rows if p.source and (p.references or not with_references))
    if not kept:
        raise UserError(f"'{path}' has no row with text; give a file with at least one")
    return list(kept)


def check(own: OwnFiles) -> None:
    """Raises UserError when the splits asked for contradict each other."""
    for files in (own.train, *own.given.values()):
        if files.table is not None and (files.source is not None or files.targets):
            raise UserError(
                f"'{files.table}' and aligned files were both given; name either a table "
                "(--file) or --source-file with --target-file"
            )
    for split, size in own.held_out.items():
        if size < 0:
            raise UserError(f"--{split} is {size}; give a number of rows, 0 for none")
        if size and split in own.given:
            raise UserError(f"--{split} {size} and a file for {split} were both given; choose one")


def input_digests(own: OwnFiles) -> dict[str, list[str]]:
    """SHA-256 of every file by split. Raises UserError when one is missing."""
    return {split: [_digest(p) for p in files.paths()] for split, files in _splits(own)}


def _splits(own: OwnFiles) -> Iterator[tuple[str, TextFiles]]:
    yield "train", own.train
    yield from own.given.items()


def _digest(path: Path) -> str:
    if not path.is_file():
        problem = "is a directory; name a file" if path.is_dir() else "does not exist"
        raise UserError(f"'{path}' {problem}; check the path")
    return file_sha256(path)


def build(own: OwnFiles) -> dict[str, list[Example]]:
    """The splits. Raises UserError for faulty files or more held-out rows than can be had."""
    check(own)
    rows = own.train.read()
    wanted = [(split, size) for split, size in own.held_out.items() if size]
    splits = split_held_out(rows, wanted) if wanted else {"train": rows}
    for split, size in wanted:
        if len(splits[split]) < size or not splits["train"]:
            raise UserError(
                f"--{split} {size}: the {len(rows)} rows of '{own.train.paths()[0]}' are not "
                "enough to hold out so many and train on others; ask for fewer"
            )
    return splits | {split: files.read() for split, files in own.given.items()}


def describe(name: str, own: OwnFiles, found: Mapping[str, list[str]]) -> CorpusInfo:
    """The description of the corpus made of files with the digests `found`."""
    held_out = {split: size for split, size in own.held_out.items() if size}
    recipe = {
        "name": name,
        "recipe": RECIPE,
        "files": dict(found),
        "aligned": {split: files.table is None for split, files in _splits(own)},
        "held_out": held_out,
        "languages": [own.source_language, own.target_language],
        "licence": own.licence,
    }
    names = [path.name for _, files in _splits(own) for path in files.paths()]
    return CorpusInfo(
        name=name,
        source_language=own.source_language,
        target_language=own.target_language,
        licence=own.licence,
        origin="own files: " + ", ".join(names),
        cleaning=CLEANING + ((HASH_SPLIT,) if held_out else ()),
        fingerprint=fingerprint_of(recipe),
    )


def notes(splits: Mapping[str, list[Example]]) -> tuple[str, ...]:
    """What a user of the corpus should know: shared sources, splits without references."""
    found = overlap_note(splits, leak_key)
    for split, pairs in splits.items():
        bare = sum(not pair.references for pair in pairs)
        if bare:
            found.append(f"{bare} of {len(pairs)} {split} rows are source-only.")
    return tuple(found)
