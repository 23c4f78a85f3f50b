"""What tests of several packages share: a small corpus and teacher on disk, and one local Ray."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported, here and in every process a test starts: the models are tiny, and
# threads that wait for each other cost several times what they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from seq2seq.checkpoint import save_model_directory
from tests.builders import tiny_model, tiny_text, tiny_vocabulary

# What gRPC's asyncio layer can leave behind under load ends the process when the cyclic collector
# meets it (docs/teacher_service.md, "Which gRPC"). Servers in processes of their own collect as
# ever.
gc.disable()

SMALL_MODEL: dict[str, Any] = {
    "kind": "transformer",
    "d_model": 16,
    "heads": 2,
    "ffn": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.1,
    "max_source_length": 128,
    "max_target_length": 128,
}


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus directory of 96 training and 8 validation pairs; targets are sources reversed."""
    directory = tmp_path_factory.mktemp("corpus")
    lines = tiny_text(104)
    for split, part in {"train": lines[:96], "validation": lines[96:]}.items():
        records = [{"source": x, "references": [" ".join(x.split()[::-1])]} for x in part]
        text = "".join(json.dumps(r) + "\n" for r in records)
        (directory / f"{split}.jsonl").write_text(text)
    return directory


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights, whose vocabulary fits ``tiny_corpus``."""
    vocabulary = tiny_vocabulary()
    limits = {"max_source_length": 128, "max_target_length": 128}
    model = tiny_model(7, vocab_size=vocabulary.size, **limits)
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_model_directory(
        path, model, vocabulary, name="tiny", card="A test's.\n", dtype=torch.float32
    )
    return path


@pytest.fixture
def plain_config(tiny_corpus: Path, tiny_teacher: Path) -> dict[str, Any]:
    """Plain values of a valid training configuration that asks no teacher."""
    return {
        "name": "tiny",
        "method": "vanilla",
        "runtime": "inline",
        "seed": 3,
        "deterministic": True,
        "corpus": {"path": str(tiny_corpus)},
        "vocabulary": {"from": str(tiny_teacher)},
        "model": dict(SMALL_MODEL),
        "loss": {"top_k": 8},
        "mixing": {"schedule": "constant", "value": 0.5},
        "batch": {"sentences": 8, "shards": 2},
        "optimiser": {"steps": 8, "learning_rate": 0.01, "warmup": 2},
        "rollout": {"limit": {"ratio": 1.0, "offset": 4, "cap": 32}},
        "validation": {"every": 1000, "sentences": 4},
    }


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session, as small as a laptop's."""
    from student_trainer.ray_runtime import cluster

    started = cluster.connect(256 << 20, cpus=2)
    yield
    started.close()
