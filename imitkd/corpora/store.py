"""The corpus directory: the one form in which every corpus reaches training and evaluation.

corpus.json                  CorpusInfo: where the text is from, its licence, rules, counts
train.jsonl validation.jsonl test.jsonl ...
    one object a line: {"source": str, "references": [str, ...]}; the first reference is the
    training target, an empty list means source-only; UTF-8, no line break inside a text; what
    a teacher wrote for a source is in "candidates" (docs/data.md)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seq2seq.corpus import Example
from seq2seq.errors import UserError

INFO_FILE = "corpus.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class CorpusInfo:
    """What corpus.json says. `splits` counts pairs, `sha256` holds the digest of each file.

    `fingerprint` identifies what the corpus was made of (input digests, rules, parameters): a
    directory that already carries the asked one is kept as it is. `notes` says what a user of this
    corpus should know about it.
    """

    name: str
    source_language: str
    target_language: str
    licence: str
    origin: str
    cleaning: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    splits: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """ "sha256:<hex>" of a JSON-able recipe: everything the prepared files depend on."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_info(directory: Path) -> CorpusInfo:
    """The description of a prepared corpus directory.

    Raises UserError when there is none or it cannot be understood.
    """
    path = directory / INFO_FILE
    try:
        loaded = json.loads(path.read_text("utf-8"))
        known = {entry.name for entry in fields(CorpusInfo)}
        values = {key: value for key, value in loaded.items() if key in known}
        for key in ("cleaning", "notes"):
            values[key] = tuple(values.get(key, ()))
        return CorpusInfo(**values)
    except FileNotFoundError:
        raise UserError(
            f"no corpus in '{directory}': {INFO_FILE} is missing; "
            "make one with `imitkd data prepare NAME --out DIRECTORY`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a corpus description ({type(error).__name__}: {error}); "
            "delete the directory and prepare the corpus again"
        ) from None


def overlap_note(splits: Mapping[str, Sequence[Example]], key: Callable[[str], str]) -> list[str]:
    """One sentence for each held-out split that has sources in train, compared by `key`."""
    train = {key(pair.source) for pair in splits["train"]}
    notes = []
    for name, pairs in splits.items():
        shared = sum(key(pair.source) in train for pair in pairs)
        if name != "train" and shared:
            notes.append(
                f"{shared} of {len(pairs)} {name} sources also occur in train (case, punctuation "
                "and numbers not counted); the splits were left as they were given."
            )
    return notes


def kept(directory: Path, fingerprint: str) -> CorpusInfo | None:
    """The description of `directory` if it is already that corpus, complete and unchanged."""
    if not (directory / INFO_FILE).is_file():
        return None
    try:
        info = read_info(directory)
    except UserError:
        return None
    if info.fingerprint != fingerprint:
        return None
    for name, digest in info.sha256.items():
        path = directory / name
        if not path.is_file() or file_sha256(path) != digest:
            return None
    return info


def check_replaceable(directory: Path) -> None:
    """Raises UserError if `directory` holds anything that is not a prepared corpus."""
    if directory.is_dir():
        if any(directory.iterdir()) and not (directory / INFO_FILE).is_file():
            raise UserError(
                f"'{directory}' is not empty and not a prepared corpus; name another directory "
                "with --out or empty this one"
            )
    elif directory.exists():
        raise UserError(f"'{directory}' is a file; name a directory with --out")


def write_corpus(
    directory: Path, info: CorpusInfo, splits: Mapping[str, Sequence[Example]]
) -> CorpusInfo:
    """Write a corpus directory of examples in memory; see :func:`publish_corpus`."""
    return publish_corpus(directory, info, lambda staging: _write_splits(staging, splits))


def publish_corpus(
    directory: Path, info: CorpusInfo, fill: Callable[[Path], Mapping[str, int]]
) -> CorpusInfo:
    """Fill a directory beside its place and move it there when it is complete.

    `fill` writes a file SPLIT.jsonl for every split and returns its rows. An earlier corpus in that
    place is replaced; anything else in the way, or a disk that is full, raises UserError and leaves
    the place as it was. Returns `info` with counts and digests.
    """
    check_replaceable(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise UserError(
            f"cannot write to '{directory.parent}' ({error.strerror}); name another with --out"
        ) from None
    try:
        complete = _describe_files(staging, info, fill(staging))
        staging.chmod(0o755)
        _put_in_place(staging, directory)
    except OSError as error:
        raise UserError(
            f"corpus '{directory}' could not be written ({error.strerror}); nothing was changed: "
            "make room or name another directory with --out"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return complete


def _write_splits(staging: Path, splits: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    for split, pairs in splits.items():
        path = staging / f"{split}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for pair in pairs:
                row = {"source": pair.source, "references": list(pair.references)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {split: len(pairs) for split, pairs in splits.items()}


def _describe_files(staging: Path, info: CorpusInfo, counts: Mapping[str, int]) -> CorpusInfo:
    """Write corpus.json beside the splits."""
    digests = {f"{split}.jsonl": file_sha256(staging / f"{split}.jsonl") for split in counts}
    complete = replace(info, splits=dict(counts), sha256=digests)
    text = json.dumps(asdict(complete), ensure_ascii=False, indent=2) + "\n"
    (staging / INFO_FILE).write_text(text, encoding="utf-8")
    return complete


def _put_in_place(staging: Path, directory: Path) -> None:
    """Rename `staging` to `directory`; an earlier corpus there steps aside first."""
    if not directory.exists():
        os.rename(staging, directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
    os.rename(directory, aside / "old")
    try:
        os.rename(staging, directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.rename(aside / "old", directory)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
