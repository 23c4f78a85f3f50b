"""Scores and speed of a model directory, or an ensemble, on a split, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seq2seq.checkpoint import (
    WEIGHTS_FILE,
    ModelDirectory,
    atomic_file,
    load_model_directory,
)
from seq2seq.corpus import read_split
from seq2seq.decoding import Beam, Greedy
from seq2seq.ensemble import join
from seq2seq.errors import UserError
from seq2seq.metrics import Metric
from seq2seq.threads import threads as pinned
from seq2seq.translation import translate
from student_trainer.evaluation import evaluate

_WARM_UP = 8


def evaluate_directory(
    model: Path | Sequence[Path],
    corpus: Path,
    split: str = "test",
    *,
    beam: int = 1,
    sentences: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    repeats: int = 1,
    metric: Metric = "bleu",
) -> dict[str, Any]:
    """Evaluate and time; translating a few sentences first keeps start-up out of the time.

    Args:
        model: one, or the members of an ensemble.
        repeats: translate so many times; the speed is that of the median.
        metric: ``rouge`` adds ROUGE to BLEU and chrF.

    Raises:
        UserError: broken model or corpus, or sentences without references.
    """
    members = [model] if isinstance(model, Path) else model
    directory = join([load_model_directory(member, device) for member in members])
    examples = read_split(corpus, split)[:sentences]
    if not all(e.references for e in examples):
        raise UserError(f"{corpus} {split} has sentences without references; they cannot be scored")
    mode = Beam(beam) if beam > 1 else Greedy()
    with pinned(threads or torch.get_num_threads()):
        used = torch.get_num_threads()
        warm_up = [e.source for e in examples[:_WARM_UP]]
        translate(directory.model, directory.vocabulary, warm_up, mode)
        found = evaluate(
            directory.model, directory.vocabulary, examples, mode, metric=metric, repeats=repeats
        )
    return {
        "model": " ".join(map(str, members)),
        "name": directory.name,
        "revision": directory.revision,
        "corpus": str(corpus),
        "split": split,
        "sentences": len(examples),
        "beam": beam,
        "threads": used,
        "device": device,
        "sources_cut": _cut(directory, [e.source for e in examples]),
        **found.as_dict(),
        "loss": found.loss,
        "seconds": found.seconds,
        "cpu_seconds": found.cpu_seconds,
        "sentences_per_s": found.sentences_per_s,
        "parameters": directory.model.parameter_count(),
        "megabytes": sum((m / WEIGHTS_FILE).stat().st_size for m in members) / 1e6,
        "translations": found.translations,
    }


def _cut(directory: ModelDirectory, texts: Sequence[str]) -> int:
    """How many sources are longer than the model takes and lose their end."""
    limit = directory.model.config.max_source_length
    encode = directory.vocabulary.encode_many
    return sum(len(directory.vocabulary.as_source(ids)) > limit for ids in encode(texts))


def print_evaluation(found: dict[str, Any]) -> None:
    """A few lines for people."""
    how = f"beam {found['beam']}" if found["beam"] > 1 else "greedy"
    where = f"{found['corpus']} {found['split']}, {found['sentences']} sentences"
    print(f"{found['name']} on {where}, {how}")
    if found["sources_cut"]:
        print(f"{found['sources_cut']} sources are longer than the model takes: their ends are cut")
    if "rouge1" in found:
        shown = "   ".join(f"ROUGE-{x} {found[f'rouge{x}']:.2f}" for x in ("1", "2", "L"))
        print(f"{shown}   {found['rouge_signature']}")
    print(f"BLEU {found['bleu']:.2f}   {found['bleu_signature']}")
    print(f"chrF {found['chrf']:.2f}   {found['chrf_signature']}")
    print(
        f"{found['sentences_per_s']:.1f} sentences/s on {found['threads']} threads; "
        f"{found['parameters']:,} parameters, {found['megabytes']:.1f} MB"
    )


def write_evaluation(found: dict[str, Any], path: Path) -> None:
    """The same as JSON, translations included."""
    with atomic_file(path) as file:
        file.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
