"""Training a teacher: the trainer with method vanilla, then a model directory with its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from imitkd.corpora import CorpusInfo, read_info
from imitkd.scoring import evaluate_directory
from seq2seq.checkpoint import CARD_FILE, atomic_directory
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from seq2seq.metrics import Metric
from student_trainer.config import RunConfig, load_config
from student_trainer.training import train


def train_teacher(
    config: Path,
    overrides: Sequence[str],
    output: Path | None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train, evaluate on every test split, write ``OUTPUT/teacher`` with its model card.

    Raises:
        UserError: the configuration is not of method vanilla, the corpus is not described, or
            training fails.
    """
    resolved = load_config(config, overrides)
    if resolved.method != "vanilla":
        raise UserError(
            f"{config}: a teacher is trained on references (method vanilla), not "
            f"{resolved.method}; use `imitkd train`"
        )
    read_info(resolved.corpus.only)  # the card needs it: a fault is told before the training
    directory = output or Path("runs") / resolved.name
    train(resolved, directory, resume=resume, console=console)
    return package_teacher(resolved, directory, " ".join([str(config), *overrides]))


def package_teacher(config: RunConfig, run: Path, arguments: str) -> Path:
    """``run/student`` with its card as ``run/teacher``.

    Scored are the test splits with references, or else the validation split.
    """
    summary = json.loads((run / "summary.json").read_text())
    corpus = config.corpus.only
    described = read_info(corpus)
    tests = [s for s in described.splits if s.startswith("test")]
    splits = [s for s in tests if all(e.references for e in read_split(corpus, s))]
    scores = [
        evaluate_directory(
            run / "student", corpus, split, beam=beam, metric=config.validation.metric
        )
        for split in splits or ["validation"]
        for beam in (1, 5)
    ]
    target = run / "teacher"
    with atomic_directory(target) as fresh:
        shutil.copytree(run / "student", fresh, dirs_exist_ok=True)
        (fresh / CARD_FILE).write_text(_card(config, summary, described, scores, arguments))
    return target


def _card(
    config: RunConfig,
    summary: dict[str, Any],
    corpus: CorpusInfo,
    scores: list[dict[str, Any]],
    arguments: str,
) -> str:
    model = json.dumps(config.model)
    first = scores[0]
    best = f"BLEU {summary['validation_bleu']:.2f}"
    if config.validation.metric == "rouge":
        best = f"ROUGE-1 {summary['validation_rouge1']:.2f}"
    kind = "Transformer" if config.model.get("kind") == "transformer" else "Recurrent"
    improving = summary["best_step"] == summary["batches"]
    how = "to its last step" if improving else "until validation stopped improving"
    return "\n".join(
        [
            f"# {config.name}",
            "",
            f"{kind} encoder-decoder, {first['parameters']:,} parameters, fp16 weights of "
            f"{first['megabytes']:.1f} MB.",
            "",
            f"- **Data**: the {corpus.splits['train']:,} training pairs of `{corpus.name}` "
            f"({corpus.source_language} -> {corpus.target_language}); "
            f"licence of the text: {corpus.licence}.",
            f"- **Corpus fingerprint**: `{corpus.fingerprint}`",
            f"- **Trained** {how}: best of {summary['batches']:,} steps is step "
            f"{summary['best_step']:,} (validation {best}, greedy).",
            f"- **Model**: `{model}`",
            f"- **Reproduce**: `imitkd data prepare {corpus.name}` and "
            f"`imitkd teacher train {arguments}`",
            "",
            *_table(config.validation.metric, scores),
            "",
        ]
    )


def _table(metric: Metric, scores: list[dict[str, Any]]) -> list[str]:
    """Scores of each split and decoding, and their signatures."""
    names = {"bleu": "BLEU", "chrf": "chrF"}
    signed = names
    if metric == "rouge":
        names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
        signed = {"rouge": "ROUGE"}
    rows = [f"| split | decoding | {' | '.join(names.values())} |", "|---" * (2 + len(names)) + "|"]
    for s in scores:
        decoding = f"beam {s['beam']}" if s["beam"] > 1 else "greedy"
        found = " | ".join(f"{s[key]:.2f}" for key in names)
        rows.append(f"| {s['split']} | {decoding} | {found} |")
    signatures = [f"{name}: `{scores[0][key + '_signature']}`" for key, name in signed.items()]
    return [*rows, "", ", ".join(signatures)]
