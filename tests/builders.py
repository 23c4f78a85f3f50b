"""Tiny models, vocabularies and sentences, small enough for thousands of forward passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from seq2seq.checkpoint import save_model_directory
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.vocabulary import EOS_ID, START_ID, SentencePieceVocabulary, Vocabulary

FIRST_WORD = START_ID + 1
# Every cell, no two widths alike, with and without what stands between or beside them.
STACKED: dict[str, dict[str, Any]] = {
    name: {"kind": "stacked"} | shape
    for name, shape in {
        "stacked-sru": {
            "cell": "sru",
            "d_model": 10,
            "encoder_width": 7,
            "decoder_width": 14,
            "projection": 4,
            "shared_embeddings": False,
        },
        "stacked-gru": {"cell": "gru", "d_model": 6, "encoder_width": 5, "decoder_width": 9},
        "stacked-lstm": {"cell": "lstm", "d_model": 9, "encoder_width": 4, "decoder_width": 8},
        "stacked-ssru": {"cell": "ssru", "d_model": 8, "encoder_width": 5, "decoder_width": 11},
    }.items()
}
# Every cell, in either direction where it can be, with and without what may be left out.
RECURRENT: dict[str, dict[str, Any]] = {
    name: {"kind": "recurrent"} | shape
    for name, shape in {
        "sru": {"cell": "sru", "encoder": "recurrent", "ffn": 0, "positions": "none"},
        "gru": {"cell": "gru"},
        "lstm": {"cell": "lstm", "encoder": "recurrent", "norm": "post"},
        "ssru": {"cell": "ssru", "encoder": "recurrent"},
    }.items()
} | STACKED
_RESIDUAL = ("heads", "ffn")  # what stacks of cells have none of


def tiny_model(
    seed: int = 0, *, end_bias: float = 0.5, spread: float = 0.3, **changes: Any
) -> EncoderDecoder:
    """A random model in evaluation mode whose every parameter matters; a Transformer by default.

    Biases and layer norms, which start as zeros and ones, get noise as well, so that a forgotten
    one changes the output. ``end_bias`` makes sentences end after a few words.
    """
    shape: dict[str, Any] = {
        "kind": "transformer",
        "vocab_size": 12,
        "d_model": 16,
        "heads": 2,
        "ffn": 24,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
        "max_source_length": 48,
        "max_target_length": 48,
    }
    shape |= changes
    if shape["kind"] == "stacked":
        shape = {key: value for key, value in shape.items() if key not in _RESIDUAL}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(shape)
        assert isinstance(model, EncoderDecoder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
            model.logit_bias[EOS_ID] += end_bias
    return model.eval()


def save_brief_teacher(path: Path, seed: int = 7) -> Path:
    """A model directory with random weights whose sentences end soon."""
    vocabulary = tiny_vocabulary()
    limits = {"max_source_length": 128, "max_target_length": 128}
    model = tiny_model(seed, end_bias=4.0, vocab_size=vocabulary.size, **limits)
    save_model_directory(path, model, vocabulary, name="brief", card="", dtype=torch.float32)
    return path


def step_sizes(model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of hypotheses of every decoding step to come."""
    sizes: list[int] = []
    step = model.step

    def spy(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        sizes.append(len(tokens))
        return step(tokens, state)

    monkeypatch.setattr(model, "step", spy)
    return sizes


def sentences(
    seed: int, lengths: Sequence[int], vocab_size: int = 12, end: bool = True
) -> list[list[int]]:
    """Random word ids of the given lengths, the end symbol included where ``end``."""
    rng = random.Random(seed)
    words = range(FIRST_WORD, vocab_size)
    tail = [EOS_ID] if end else []
    return [[*rng.choices(words, k=length - len(tail)), *tail] for length in lengths]


def weights_of(model: Seq2SeqModel) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def tiny_text(count: int = 300, seed: int = 0) -> list[str]:
    """Lines over a made-up language of forty words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(40)]
    return [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(count)]


@cache
def tiny_vocabulary(size: int = 48) -> Vocabulary:
    """A vocabulary trained on :func:`tiny_text`."""
    return SentencePieceVocabulary.train(tiny_text(), size)
