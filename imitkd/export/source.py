"""What is exported: a model directory, and what is known of how it came to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imitkd.corpora import read_info
from seq2seq.checkpoint import CARD_FILE, ModelDirectory, load_model_directory
from seq2seq.corpus import Example, read_split
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.errors import UserError


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        card: the text of its model card.
        method, teacher_revision: of the run that made it, where that is known.
        corpus: directory that it was trained on, where that is known.
    """

    directory: ModelDirectory
    card: str = ""
    method: str | None = None
    teacher_revision: str | None = None
    corpus: Path | None = None

    @property
    def model(self) -> EncoderDecoder:
        """The model, which is one of ours."""
        assert isinstance(self.directory.model, EncoderDecoder)
        return self.directory.model


def read_source(path: Path) -> Source:
    """A run directory (its best student) or a model directory.

    Raises:
        UserError: it is neither, it is damaged, or its model is one of ``transformers``.
    """
    run = path if (path / "config.yaml").is_file() else None
    if run is not None and not (run / "student").is_dir():
        raise UserError(f"{run} holds a run without a student; let it come to a validation first")
    directory = load_model_directory(path / "student" if run is not None else path)
    if not isinstance(directory.model, EncoderDecoder):
        raise UserError(
            f"{directory.path} is a model of transformers; only models of ours are exported"
        )
    card = directory.path / CARD_FILE
    text = card.read_text() if card.is_file() else ""
    if run is None:
        return Source(directory, text)
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    summary = _summary(run / "summary.json")
    teacher = summary.get("teacher_revision")
    if isinstance(teacher, dict):
        teacher = ", ".join(f"{name} {revision}" for name, revision in teacher.items())
    path = config["corpus"].get("path")  # None where there were several
    return Source(directory, text, config["method"], teacher, Path(path) if path else None)


def _summary(file: Path) -> dict[str, Any]:
    """What training told; the demo keeps that in a part of its own summary."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    training: dict[str, Any] = found.get("training", found)
    return training


def corpus_facts(source: Source, given: Path | None) -> dict[str, str]:
    """Lines of a model card about the corpus of the run; none where it is not known.

    Args:
        given: a corpus directory to check on; the run's own, moved, where it has the same name.
    """
    corpus = source.corpus
    if corpus is None:
        return {}
    if given is not None and given.name == corpus.name:
        corpus = given
    try:
        info = read_info(corpus)
    except UserError:
        return {"Corpus": f"`{corpus.name}`"}
    return {
        "Corpus": f"`{info.name}` ({info.source_language} -> {info.target_language})",
        "Corpus fingerprint": f"`{info.fingerprint}`",
        "Licence of the corpus's text": info.licence,
    }


def check_examples(
    source: Source, corpus: Path | None, split: str, sentences: Path | None
) -> tuple[list[Example], str]:
    """Sentences that the export is checked on, and where they are from.

    The corpus given, else the file given, else the corpus of the run.

    Raises:
        UserError: there are none.
    """
    if sentences is not None:
        try:
            lines = sentences.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {sentences} ({error}); give a UTF-8 text") from error
        found = [Example(line, ()) for line in lines if line.strip()]
        where = sentences.name
    else:
        given = corpus or source.corpus
        if given is None:
            raise UserError(
                "an export is checked on sentences: give --corpus DIR or --sentences FILE (a run "
                "directory knows its corpus, a model directory does not)"
            )
        if not given.is_dir():
            raise UserError(f"there is no corpus at {given}; give --corpus DIR")
        found, where = read_split(given, split), f"{given.name}, {split}"
    if not found:
        raise UserError(f"{where} has no sentences to check the export on")
    return found, where
