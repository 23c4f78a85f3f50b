"""Which files of a download are the model and its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imitkd.importing.marian_binary import is_binary_model
from seq2seq.errors import UserError

_SHARED_ENDINGS = (".spm",)
_TABLE_ENDINGS = (".yml", ".yaml", ".json")
_LONGEST_CONFIGURATION = 1 << 16


@dataclass(frozen=True)
class MarianFiles:
    """What an import is made of.

    Attributes:
        vocabulary: a SentencePiece model, or a table of pieces and ids.
        source_pieces, target_pieces: with a table, the SentencePiece models that cut texts.
    """

    model: Path
    vocabulary: Path
    source_pieces: Path | None = None
    target_pieces: Path | None = None

    def all(self) -> list[Path]:
        """Every file, the model first."""
        given = (self.model, self.vocabulary, self.source_pieces, self.target_pieces)
        return [path for path in given if path is not None]


def find_files(
    path: Path,
    vocabulary: Path | None = None,
    source_pieces: Path | None = None,
    target_pieces: Path | None = None,
) -> MarianFiles:
    """The files of a directory, or of the directory that a model file is in.

    What is given is taken. A decoder configuration (a YAML file that names models and vocabularies)
    says the rest; where there is none, there must be one model and one vocabulary.

    Raises:
        UserError: a file is missing, or there are several to choose from.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a Marian model or its directory")
    folder = path if path.is_dir() else path.parent
    stated = _decoder_configuration(folder) if path.is_dir() else {}
    model = path if path.is_file() else _model(folder, stated)
    if vocabulary is None:
        vocabulary = _vocabulary(folder, stated)
    for given in (vocabulary, source_pieces, target_pieces):
        if given is not None and not given.is_file():
            raise UserError(f"{given} is no file; check the path")
    if vocabulary.suffix in _SHARED_ENDINGS:
        if source_pieces is not None or target_pieces is not None:
            raise UserError(f"{vocabulary} cuts texts itself; leave --source-spm, --target-spm out")
        return MarianFiles(model, vocabulary)
    if vocabulary.suffix not in _TABLE_ENDINGS:
        raise UserError(
            f"{vocabulary} is no vocabulary known here; give a .spm, or a .yml with --source-spm "
            "and --target-spm"
        )
    beside = vocabulary.parent
    return MarianFiles(
        model,
        vocabulary,
        source_pieces or _cutter(beside / "source.spm", "--source-spm"),
        target_pieces or _cutter(beside / "target.spm", "--target-spm"),
    )


def _model(folder: Path, stated: dict[str, Any]) -> Path:
    named = stated.get("models", [])
    if named:
        return _only(
            folder, [folder / str(n) for n in named], "models of one ensemble", "the path of one"
        )
    binaries = [p for p in folder.glob("*.bin") if is_binary_model(p)]
    found = sorted([*folder.glob("*.npz"), *binaries])
    return _only(folder, found, "models", "the path of one")


def _vocabulary(folder: Path, stated: dict[str, Any]) -> Path:
    named = [folder / str(n) for n in stated.get("vocabs", [])]
    if named:
        return _only(folder, sorted(set(named)), "vocabularies", "a model with one for both sides")
    cutters = {"source.spm", "target.spm"}
    found = [p for p in folder.glob("*.spm") if p.name not in cutters]
    found = found or [*folder.glob("*vocab*.yml"), *folder.glob("*vocab*.yaml")]
    return _only(folder, sorted(found), "vocabularies", "one with --vocab")


def _only(folder: Path, found: list[Path], what: str, remedy: str) -> Path:
    if len(found) != 1:
        shown = ", ".join(p.name for p in found[:5]) or "none"
        raise UserError(f"{folder} has {len(found)} {what} ({shown}); give {remedy}")
    if not found[0].is_file():
        raise UserError(f"{folder} names {found[0].name}, which is not there; download it again")
    return found[0]


def _cutter(path: Path, flag: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is not there; give the SentencePiece model with {flag}")
    return path


def _decoder_configuration(folder: Path) -> dict[str, Any]:
    """The YAML file that names models and vocabularies; {} without one."""
    for path in sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")]):
        if "vocab" in path.name:
            continue  # a table of pieces: long, and not always good YAML
        try:
            if path.stat().st_size > _LONGEST_CONFIGURATION:
                continue
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, OSError, RecursionError):
            continue
        if not isinstance(content, dict):
            continue
        if all(isinstance(content.get(key), list) for key in ("models", "vocabs")):
            return content
    return {}
