"""An export: written beside its place, opened again, checked, and only then put in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imitkd.engines.manifest import Manifest, is_export
from imitkd.export.card import card
from imitkd.export.checking import Check, compare
from imitkd.export.forms import check_form, open_peer, write_files
from imitkd.export.source import Source, check_examples, read_source
from seq2seq.checkpoint import CARD_FILE, atomic_directory
from seq2seq.errors import UserError


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        megabytes: of all its files.
    """

    path: Path
    manifest: Manifest
    check: Check
    megabytes: float


@dataclass(frozen=True)
class CheckOn:
    """What an export is checked on, and what quantised weights may cost.

    Attributes:
        corpus, split: a corpus directory; None is that of the run.
        sentences: a file of one text a line in place of it.
        first: only so many of either.
        max_bleu_loss: of int8 against its source.
    """

    corpus: Path | None = None
    split: str = "validation"
    sentences: Path | None = None
    first: int | None = None
    max_bleu_loss: float = 1.0


def export(
    path: Path,
    form: str,
    output: Path,
    quantization: str = "float32",
    check_on: CheckOn | None = None,
    licence: str | None = None,
) -> Exported:
    """Export the best student of a run directory, or a model directory, to ``output``.

    Raises:
        UserError: the form cannot hold the model, there is nothing to check it on, or the export
            does not do what its source does; nothing is written then.
    """
    check_on = check_on or CheckOn()
    source = read_source(path)
    check_form(source, form, quantization)
    _check_output(output)
    examples, where = check_examples(source, check_on.corpus, check_on.split, check_on.sentences)
    manifest = _manifest(source, form, quantization)
    with atomic_directory(output) as fresh:
        write_files(source, manifest, fresh)
        check = compare(
            source.directory,
            open_peer(manifest, fresh),
            examples[: check_on.first],
            where,
            exact=quantization == "float32",
            max_bleu_loss=check_on.max_bleu_loss,
            limit=manifest.limit,
        )
        text = card(source, manifest, check, licence=licence, corpus=check_on.corpus)
        (fresh / CARD_FILE).write_text(text)
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    return Exported(output, manifest, check, size / 1e6)


def _check_output(output: Path) -> None:
    if output.exists() and not is_export(output):
        if output.is_dir() and not any(output.iterdir()):
            return
        raise UserError(f"{output} holds something that is no export; choose another --out")


def _manifest(source: Source, form: str, quantization: str) -> Manifest:
    config, directory = source.model.config, source.directory
    return Manifest(
        form=form,
        quantization=quantization,
        name=directory.name,
        revision=directory.revision,
        fingerprint=directory.vocabulary.fingerprint,
        start_id=config.start_id,
        eos_id=config.eos_id,
        pad_id=config.pad_id,
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
        suppressed=sorted({config.pad_id, config.start_id}),
    )
