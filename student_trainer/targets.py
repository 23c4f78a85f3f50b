"""What the training rows' targets are: references, or what the teacher wrote for their sources.

A corpus that the teacher wrote for (`imitkd data distil`) has ``train.jsonl`` with one object a
line: ``{"source": text, "references": [text, ...], "candidates": [{"text": text, "score": number},
...]}``, the teacher's hypotheses best first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from seq2seq.corpus import Example, stream_split
from seq2seq.errors import UserError
from seq2seq.metrics import sentence_bleu
from student_trainer.config import RunConfig


@dataclass(frozen=True)
class Distilled:
    """A source with the teacher's hypotheses, best first, and its references if it has any."""

    source: str
    references: tuple[str, ...]
    candidates: tuple[str, ...]

    @classmethod
    def of_record(cls, record: Any) -> Distilled:
        """One line of the file, read.

        Raises:
            KeyError, TypeError, ValueError: it is not what the teacher's writing looks like.
        """
        source, references = record["source"], record.get("references", [])
        candidates = [candidate["text"] for candidate in record["candidates"]]
        if not all(isinstance(text, str) for text in (source, *references, *candidates)):
            raise TypeError("texts are expected")
        if not candidates:
            raise ValueError("an empty list")
        return cls(source, tuple(references), tuple(candidates))

    @property
    def by_teacher(self) -> Example:
        """The source with the teacher's favourite as its only reference."""
        return Example(self.source, (self.candidates[0],))


def training_files(config: RunConfig) -> list[Path]:
    """The files that :func:`training_examples` reads, one of each corpus."""
    corpora = list(config.corpus.directories.values())
    if config.spec.data != "reference" and config.corpus.distilled is not None:
        corpora = [config.corpus.distilled]
    return [corpus / "train.jsonl" for corpus in corpora]


def training_examples(config: RunConfig) -> Iterator[Example]:
    """The training split, a sentence at a time and one corpus after the other; the first reference
    of each example is its target under the method.

    Raises:
        UserError: the split is not there, or lacks what the method takes its targets from.
    """
    for place, path in enumerate(training_files(config)):
        for example in _examples_of(path, config):
            yield replace(example, corpus=place) if place else example


def _examples_of(path: Path, config: RunConfig) -> Iterator[Example]:
    data = config.spec.data
    if data == "reference":
        yield from islice(stream_split(path.parent, "train"), config.corpus.sentences)
        return
    rows = islice(read_distilled(path), config.corpus.sentences)
    for row in rows:
        if data == "teacher":
            yield row.by_teacher
        elif row.references:
            yield Example(row.source, (closest(row.candidates, row.references),))
        else:
            bare = 1 + sum(not later.references for later in rows)
            raise UserError(
                f"{path} has {bare} sources without references, and method {config.method} chooses "
                "by them; leave them out, or use method seqkd"
            )


def closest(candidates: Sequence[str], references: Sequence[str]) -> str:
    """SeqInter's choice: the candidate of the highest sentence BLEU; of equals the teacher's
    favourite."""
    return max(candidates, key=lambda text: sentence_bleu(text, references))


def read_distilled(path: Path) -> Iterator[Distilled]:
    """The rows of a file that the teacher wrote for.

    Raises:
        UserError: it is not there, empty, or a row has no hypotheses (with its line).
    """
    hint = "write it with `imitkd data distil` and name its directory with corpus.distilled"
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {hint}") from error
    number = 0
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield Distilled.of_record(json.loads(line.decode()))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number}: no teacher-written 'candidates' for a 'source' "
                    f"({error!r}); {hint}"
                ) from error
    if not number:
        raise UserError(f"{path} is empty; {hint}")
