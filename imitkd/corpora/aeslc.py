"""`aeslc`: e-mails and their subject lines (Zhang and Tetreault 2019), a corpus of summaries.

`aeslc+gaps` is made of the e-mails alone: what a model of summaries may be pretrained on.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.download import Retry, download
from imitkd.corpora.gap_sentences import gap_pairs
from imitkd.corpora.reading import make_pair, read_jsonl
from imitkd.corpora.store import CorpusInfo, file_sha256, fingerprint_of, overlap_note
from seq2seq.corpus import Example
from seq2seq.errors import UserError

NAME = "aeslc"
WITH_GAPS = f"{NAME}+gaps"
COMMIT = "7afc087a1cc234d07121f0d4a2d87102ddceabc2"
BASE_URL = "https://codeload.github.com/ryanzhumich/AESLC/tar.gz"
ARCHIVE = f"AESLC-{COMMIT[:12]}.tar.gz"
LICENCE = "CC-BY-NC-SA-4.0"
RECIPE = 1
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
# Of all the e-mails, see `digest`: an archive is compressed anew by whoever serves it.
SHA256 = {NAME: "e0242c7b1b71ae666ec3d7a9249e4e1ff256d006c85154cdc4ffcd54d7df76e3"}
CLEANING = (
    "The published splits; an e-mail without text or subject is left out.",
    "The first reference is the subject its author wrote, which training takes; the others, in"
    " validation and test, are those of annotators.",
    "Texts are put in Unicode NFC, invisible marks are removed, every run of white space becomes"
    " one space.",
)
GAPS_CLEANING = (
    "The e-mails of the published splits for training and development, without their subjects.",
    "A source is an e-mail without one of the sentences that share most words with the others"
    " (ROUGE-1), the reference that sentence; at most three of an e-mail, one of three sentences.",
    CLEANING[-1],
)
_MEMBER = re.compile(r"(?:[^/]+/)*enron_subject_line/([a-z]+)/([^/]+\.subject)")
_MARK = re.compile(r"^@(?:subject|ann\d+)[ \t]*$", re.MULTILINE)

# {"dev/allen-p_inbox_29.subject": bytes, ...}
Mails = dict[str, bytes]


def fetch(directory: Path, base_url: str, retry: Retry | None = None) -> Path:
    """The repository's archive, downloaded into `directory` unless it is there."""
    return download(f"{base_url.rstrip('/')}/{COMMIT}", directory / ARCHIVE, retry=retry)


def read_archive(path: Path) -> Mails:
    """The e-mails in a .tar.gz of the repository. Raises UserError when it cannot be read."""
    mails: Mails = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                found = _MEMBER.fullmatch(member.name)
                if found and (file := archive.extractfile(member)) is not None:
                    mails[f"{found[1]}/{found[2]}"] = file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' is not a whole .tar.gz ({reason}); get the file again") from None
    return mails


def read_folder(directory: Path) -> Mails:
    """The e-mails in a copy of the repository."""
    root = directory / "enron_subject_line"
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes() for path in root.glob("*/*.subject")
    }


def digest(mails: Mapping[str, bytes]) -> str:
    """Hexadecimal SHA-256 over names and contents of all e-mails, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(mails):
        for part in (name.encode(), mails[name]):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
    return found.hexdigest()


def build(mails: Mapping[str, bytes], origin: Path) -> dict[str, list[Example]]:
    """The splits of the corpus, e-mails in the order of their names."""
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for split, folder in SPLITS.items():
        for name in sorted(name for name in mails if name.startswith(f"{folder}/")):
            splits[split].append(_pair(name, mails[name], origin))
        if not splits[split]:
            raise UserError(f"'{origin}' holds no e-mails enron_subject_line/{folder}/*.subject")
    return _complete(splits)


def _pair(name: str, content: bytes, origin: Path) -> Example:
    try:
        parts = _MARK.split(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{origin}', {name} is not UTF-8 ({error}); get it again") from None
    return make_pair(parts[0], parts[1:])


def json_files(directory: Path) -> dict[str, Path]:
    """Where `directory` holds the splits as `{train,dev,test}.jsonl`, or .gz: where they lie."""
    found = {}
    for split, stem in SPLITS.items():
        for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
            if (directory / name).is_file():
                found[split] = directory / name
    return found if len(found) == len(SPLITS) else {}


def build_json(files: Mapping[str, Path]) -> dict[str, list[Example]]:
    """The splits from lines `{"source": ..., "target": subject, "references": [others]}`."""
    return _complete({split: read_jsonl(path) for split, path in files.items()})


def _complete(splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    return {
        split: [pair for pair in pairs if pair.source and pair.references]
        for split, pairs in splits.items()
    }


def with_gaps(splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    """`aeslc+gaps` of `aeslc`; of the test split nothing, it stays unseen.

    An e-mail of the validation split that also occurs in train is left out.
    """
    seen = {leak_key(pair.source) for pair in splits["train"]}
    texts = {split: [pair.source for pair in splits[split]] for split in ("train", "validation")}
    texts["validation"] = [text for text in texts["validation"] if leak_key(text) not in seen]
    return {split: gap_pairs(found) for split, found in texts.items()}


def json_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file."""
    return {path.name: file_sha256(path) for path in files.values()}


def describe(name: str, found: Mapping[str, str]) -> CorpusInfo:
    """The description of the corpus `name` made of files with the digests `found`."""
    published = dict(found) == SHA256
    return CorpusInfo(
        name=name,
        source_language="en",
        target_language="en",
        licence=LICENCE,
        origin="github.com/ryanzhumich/AESLC"
        + ("" if published else " (files that differ from the published ones)"),
        cleaning=CLEANING if name == NAME else GAPS_CLEANING,
        fingerprint=fingerprint_of({"name": name, "recipe": RECIPE, "files": dict(found)}),
    )


def notes(splits: Mapping[str, list[Example]]) -> tuple[str, ...]:
    """What the published split shares between train and the rest."""
    return tuple(overlap_note(splits, leak_key))


def mails_at_hand(source: Path) -> Mails | None:
    """E-mails of the repository's archive or of a copy of it; None where `source` is neither."""
    if source.is_file():
        return read_archive(source)
    return read_folder(source) if (source / "enron_subject_line").is_dir() else None
