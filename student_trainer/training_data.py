"""The training split as ids, and which rows make up which batch.

The ids are kept with the run, so that it is tokenised once: ``tokens/`` holds the arrays of
:mod:`seq2seq.data`, which every process of the run maps, and ``recipe.json``: what they were made
of. Where that is not what configuration and corpus say now they are made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seq2seq.checkpoint import atomic_directory, files_revision
from seq2seq.data import Segmentation, TokenizedSplit, tokenise
from seq2seq.errors import UserError
from seq2seq.model import build_model
from seq2seq.plan import BatchPlan
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.references import needs_references, require_references
from student_trainer.run_directory import RunDirectory
from student_trainer.targets import training_examples, training_files

OTHER_BATCHES = (
    "the batches of this configuration are others than those the run began with, and sentences "
    "would be learnt twice or never; resume with the corpus, the batch section and the model's "
    "length limits of its config.yaml, or begin a new run"
)
_RECIPE = "recipe.json"
_FORM = 1


@dataclass(frozen=True)
class TrainingData:
    """The training split as ids, and which rows make up which batch."""

    split: TokenizedSplit
    plan: BatchPlan

    @classmethod
    def of(cls, config: RunConfig, split: TokenizedSplit) -> TrainingData:
        """Plan the batches of a split."""
        lengths = np.maximum(split.source_lengths, split.target_lengths)
        batch = config.batch
        plan = BatchPlan(lengths, seed=config.seed, sentences=batch.sentences, tokens=batch.tokens)
        return cls(split, plan)


def build_limits(config: RunConfig) -> tuple[int, int]:
    """Longest source and target of the model section, in ids."""
    with torch.device("meta"):  # the limits are wanted, no weights
        model = build_model({"vocab_size": 5} | config.model)
    return model.config.max_source_length, model.config.max_target_length


def make_data(config: RunConfig, vocabulary: Vocabulary, run: Path | None = None) -> TrainingData:
    """Tokenise the training split and plan its batches.

    Args:
        run: directory to keep the ids in, for all processes of a run and for the next one; what
            lies there already is taken if it was made of the same. None: they stay in memory.

    Raises:
        UserError: no references where the method's first rows need them; a full disk; the run's
            checkpoint goes by other batches.
    """
    if run is None:
        return TrainingData.of(config, _tokenise(config, vocabulary))
    where = RunDirectory(run)
    if not is_current(config, vocabulary, run):
        state = where.checkpoint_state()
        with atomic_directory(where.tokens) as fresh:
            made = TrainingData.of(config, _tokenise(config, vocabulary, fresh))
            # A run that is refused is left as it was.
            digest = made.plan.digest
            if state is not None and state["extra"].get("plan", digest) != digest:
                raise UserError(OTHER_BATCHES)
            recipe = json.dumps(_recipe(config, vocabulary), indent=2)
            (fresh / _RECIPE).write_text(recipe + "\n")
    return kept_data(config, run)


def kept_data(config: RunConfig, run: Path) -> TrainingData:
    """What :func:`make_data` kept in ``run``, taken as it is: the corpus is not looked at.

    Raises:
        UserError: it is not there, or damaged.
    """
    return TrainingData.of(config, TokenizedSplit.read(RunDirectory(run).tokens))


def is_current(config: RunConfig, vocabulary: Vocabulary, run: Path) -> bool:
    """Whether the ids in ``run`` are of the corpus and by the configuration as they are now."""
    tokens = RunDirectory(run).tokens
    try:
        if json.loads((tokens / _RECIPE).read_text()) != _recipe(config, vocabulary):
            return False
        return TokenizedSplit.read(tokens).has_targets or not needs_references(config)
    except (OSError, ValueError, UserError):
        return False


def _tokenise(
    config: RunConfig, vocabulary: Vocabulary, directory: Path | None = None
) -> TokenizedSplit:
    """What the method trains on."""
    limits = build_limits(config)
    return tokenise(
        require_references(config, training_examples(config)),
        vocabulary,
        max_source_length=limits[0],
        max_target_length=limits[1],
        segmentation=Segmentation(config.corpus.source_candidates, config.corpus.source_alpha),
        cut_sources=config.corpus.long_sources == "cut",
        directory=directory,
    )


def _recipe(config: RunConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """All that the ids follow from."""
    corpus = config.corpus
    several = {"corpora": list(corpus.directories)} if corpus.path is None else {}
    return several | {
        "form": _FORM,
        "text": files_revision(training_files(config)),
        "targets": config.spec.data,
        # Earlier versions took the first so many, and said so by the bare number.
        "sentences": corpus.sentences and {"drawn": corpus.sentences},
        "vocabulary": vocabulary.fingerprint,
        "limits": list(build_limits(config)),
        "long_sources": corpus.long_sources,
        "segmentation": [corpus.source_candidates, corpus.source_alpha],
    }
