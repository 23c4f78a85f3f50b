"""``export.json``: what an export is, how it writes, and the digests of its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError
from seq2seq.modes import LengthLimit
from seq2seq.vocabulary import Vocabulary, load_vocabulary

MANIFEST_FILE, TOKENIZER_DIR = "export.json", "tokenizer"
_VERSION = 1
# Written after the digests are taken, and meant to be edited.
_UNCHECKED = {MANIFEST_FILE, "README.md"}


@dataclass(frozen=True)
class Manifest:
    """What an engine must know of an export beside its model files.

    Attributes:
        form: ``ctranslate2``, ``huggingface`` or ``onnx``.
        quantization: of the weights.
        name, revision: of the model directory that was exported.
        fingerprint: of its vocabulary.
        max_source_length, max_target_length: ids, the end symbol included.
        suppressed: ids that are never written.
        limit: of a target by the length of its source.
        sha256: of every file, by its path in the directory.
    """

    form: str
    quantization: str
    name: str
    revision: str
    fingerprint: str
    start_id: int
    eos_id: int
    pad_id: int
    max_source_length: int
    max_target_length: int
    suppressed: list[int]
    limit: LengthLimit = field(default_factory=LengthLimit)
    sha256: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write it with the digests of all that lies in ``directory``."""
        values = {"version": _VERSION} | asdict(self) | {"sha256": digests(directory)}
        (directory / MANIFEST_FILE).write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read it and check every file against its digest.

        Raises:
            UserError: it is broken or of another version, or a file is missing or damaged.
        """
        path = directory / MANIFEST_FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            version = values.pop("version")
            if version == _VERSION:
                values["limit"] = LengthLimit(**values["limit"])
                found = cls(**values)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; export again") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is broken ({error!r}); export again") from error
        if version != _VERSION:
            raise UserError(
                f"{path} is of version {version!r}, this program reads {_VERSION}; export again"
            )
        present = digests(directory)
        for name, digest in found.sha256.items():
            if name not in present:
                raise UserError(f"{directory / name} is missing; copy the export again")
            if present[name] != digest:
                raise UserError(
                    f"{directory / name} is not the file that was exported (its digest differs); "
                    "copy the export again"
                )
        return found

    def vocabulary(self, directory: Path) -> Vocabulary:
        """The tokenizer of an export that has it in our own form.

        Raises:
            UserError: missing, broken, or not that of the manifest.
        """
        found = load_vocabulary(directory / TOKENIZER_DIR)
        if found.fingerprint != self.fingerprint:
            raise UserError(
                f"{directory / TOKENIZER_DIR} is not the tokenizer of this export (fingerprint "
                f"{found.fingerprint}, expected {self.fingerprint}); copy the export again"
            )
        return found


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of all files of an export but its card and manifest."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    named = {p.relative_to(directory).as_posix(): p for p in files}
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for name, p in named.items()
        if name not in _UNCHECKED
    }


def is_export(directory: Path) -> bool:
    """Whether `imitkd export` wrote this directory."""
    return (directory / MANIFEST_FILE).is_file()
