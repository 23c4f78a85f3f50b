"""Tiny random teachers and the slow way to ask them, for unit and integration tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seq2seq.checkpoint import save_model_directory
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.vocabulary import SentencePieceVocabulary, Vocabulary
from teacher_service.config import ServerConfig

VOCABULARY, LONGEST = 40, 12


def tiny_model(seed: int = 0, **change: Any) -> Seq2SeqModel:
    """A random Transformer of one layer; peaked enough that its distributions differ."""
    torch.manual_seed(seed)
    config = {
        "kind": "transformer",
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "heads": 2,
        "ffn": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_source_length": LONGEST,
        "max_target_length": LONGEST,
    }
    return build_model(config | change).eval()


def tiny_vocabulary(size: int = VOCABULARY) -> Vocabulary:
    """A vocabulary of random words; the same every time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for _ in range(60)]
    lines = [" ".join(draw.choices(words, k=8)) for _ in range(300)]
    return SentencePieceVocabulary.train(lines, size)


def save_tiny_teacher(path: Path, seed: int = 0, **change: Any) -> Seq2SeqModel:
    """Write a model directory in fp32; returns the model in it."""
    model = tiny_model(seed, **change)
    save_model_directory(
        path, model, tiny_vocabulary(), name="tiny", card="A test's.", dtype=torch.float32
    )
    return model


def slow_log_probs(
    model: Seq2SeqModel, source: Sequence[int], target: Sequence[int], temperature: float = 1.0
) -> np.ndarray:
    """``[T, V]`` float64, one position after another, each from its own full prefix."""
    rows = []
    for t in range(len(target)):
        inputs = torch.tensor([[model.config.start_id, *target[:t]]])
        with torch.inference_mode():
            logits = model(torch.tensor([list(source)]), torch.tensor([len(source)]), inputs)
        rows.append((logits[0, -1].double() / temperature).log_softmax(0).numpy())
    return np.array(rows).reshape(len(target), model.config.vocab_size)


def random_pairs(count: int, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and targets of all lengths the tiny teacher takes, empty and longest included."""
    draw = random.Random(seed)
    sources, targets = [], []
    for index in range(count):
        words = draw.choices(range(4, VOCABULARY), k=draw.randint(0, LONGEST - 1))
        sources.append([*words, 1])
        length = (0, LONGEST)[index] if index < 2 else draw.randint(0, LONGEST)
        ids = draw.choices(range(4, VOCABULARY), k=length)
        finished = length > 0 and index != 1 and draw.random() < 0.7
        targets.append([*ids[:-1], 1] if finished else ids)
    return sources, targets


def tiny_config(model_dir: Path, **change: Any) -> ServerConfig:
    """Loopback, free port, one thread, quick to end; a repeated question is computed again."""
    fields = {"address": "127.0.0.1:0", "threads": 1, "drain_grace_s": 5.0, "batch_tokens": 256}
    uncached = {"encoder_cache_mib": 0, "score_cache_mib": 0}
    return ServerConfig(model_dir=model_dir, **(fields | uncached | change))
