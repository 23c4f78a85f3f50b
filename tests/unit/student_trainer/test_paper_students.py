"""The recurrent students of `configs/paper` have the sizes of the authors' models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seq2seq.model import Seq2SeqModel, build_model
from student_trainer.config import load_config

PAPER = Path(__file__).parents[3] / "configs" / "paper"


def student_of_the_paper(name: str, vocab_size: int) -> Seq2SeqModel:
    config = load_config(PAPER / name / "imitkd.yaml")
    with torch.device("meta"):
        return build_model(config.model | {"vocab_size": vocab_size})


def published(
    vocab_size: int,
    layers: int,
    hidden: int,
    *,
    embeddings: int = 256,
    projection: int = 0,
    tables: int = 1,
) -> int:
    """Parameters of the authors' modules, counted by hand; ``hidden`` is of one direction.

    A layer of `SRU` has a matrix for each of three products, and one for the highway where it
    changes the width, two vectors that feed back and two biases. With ``projection`` its
    matrices are products with one that both directions share.
    """
    width, total = 2 * hidden, 0
    for number in range(layers):
        reads = embeddings if number == 0 else width
        matrices = 3 if reads == width else 4
        between = reads
        if 0 < projection < min(reads, width):
            between = projection
            total += reads * projection
        total += between * matrices * width + 4 * width
    total *= 2  # encoder and decoder, which is as wide as both directions together
    total += 2 * width * width + width  # attention
    total += width * embeddings + embeddings
    return total + tables * vocab_size * embeddings + vocab_size


@pytest.mark.parametrize(("name", "layers"), [("iwslt14/sru2", 2), ("iwslt14/sru3", 3)])
def test_students_for_iwslt14_are_as_large_as_the_authors(name: str, layers: int) -> None:
    found = student_of_the_paper(name, 10_000).parameter_count()
    assert found == published(10_000, layers, 256, tables=2)


def test_the_paper_states_8_6_million() -> None:
    found = student_of_the_paper("iwslt14/sru2", 10_000).parameter_count()
    assert found == 8_415_760 == pytest.approx(8.6e6, rel=0.03)
    # Neither another cell, as a file of the authors has it, nor one table makes that number.
    shape = {"kind": "stacked", "vocab_size": 10_000, "shared_embeddings": False}
    for change in ({"cell": "gru"}, {"cell": "lstm"}, {"shared_embeddings": True}):
        with torch.device("meta"):
            other = build_model(shape | change).parameter_count()
        assert other != pytest.approx(8.6e6, rel=0.1), change


@pytest.mark.parametrize(
    ("name", "vocab_size", "layers", "hidden"),
    [("wmt16/sru4", 32_768, 4, 1024), ("cnndm/sru2", 30_522, 2, 512)],
)
def test_projected_students_have_a_projection_for_each_direction(
    name: str, vocab_size: int, layers: int, hidden: int
) -> None:
    """The authors' directions share one; nothing else differs."""
    found = student_of_the_paper(name, vocab_size).parameter_count()
    second = (layers - 1) * 2 * hidden * 256
    assert found == published(vocab_size, layers, hidden, projection=256) + second
