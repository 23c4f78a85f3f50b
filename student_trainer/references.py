"""Which methods need references, and whether a corpus has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from seq2seq.corpus import Example
from seq2seq.errors import UserError
from student_trainer.config import RunConfig


def needs_references(config: RunConfig) -> bool:
    """Whether some row of the run learns its reference; not where the student writes them all, and
    no filter gives rows their data back.
    """
    filtered = config.spec.pool == "aggregation" and config.pool.confidence > 0.0
    return filtered or not (config.student_writes and config.mixing.keeps_no_reference)


def require_references(config: RunConfig, examples: Iterable[Example]) -> Iterator[Example]:
    """Hand examples on, and refuse source-only ones where the method needs references.

    Raises:
        UserError: how many there are, and how such a corpus is trained on.
    """
    needed, total = needs_references(config), 0
    rest = iter(examples)
    for example in rest:
        total += 1
        if example.references or not needed:
            yield example
            continue
        bare = 1
        for later in rest:
            total += 1
            bare += not later.references
        corpus = config.corpus.title
        raise UserError(
            f"{bare:,} of the {total:,} training sentences of {corpus} have no reference, "
            f"which method {config.method} needs; have the teacher write them (`imitkd data distil "
            f"{corpus}`, then method seqkd), or let the student write every row from the start: "
            "method imitkd or imitkd-full with mixing='{lambda: 1}'"
        )


def require_target_text(examples: Iterable[Example], corpus: str) -> None:
    """Refuse to train a vocabulary on sources alone: it would lack the target language.

    Reads all examples: a fault in their file is told here, where SentencePiece would lose it.

    Raises:
        UserError: no sentence has a reference.
    """
    if not sum(bool(e.references) for e in examples):
        raise UserError(
            f"{corpus} has sources alone, of which no vocabulary for targets can be trained; take "
            "the teacher's: vocabulary='{served: true}', or vocabulary.from"
        )
