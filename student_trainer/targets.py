"""What the training rows' targets are: references, or what the teacher wrote for their sources.

A corpus that the teacher wrote for (`imitkd data distil`) has ``train.jsonl`` with one object a
line: ``{"source": text, "references": [text, ...], "candidates": [{"text": text, "score": number},
...]}``, the teacher's hypotheses best first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seq2seq.corpus import Example, stream_split
from seq2seq.errors import UserError
from seq2seq.metrics import sentence_bleu
from student_trainer.config import RunConfig
from student_trainer.low_data import drawn, some_of


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
    """The files that :func:`training_examples` reads."""
    corpora = list(config.corpus.directories.values())
    if (written := _distilled(config)) is not None:
        # What part of it is learnt follows from the corpus that it was written for.
        corpora = [written, *(corpora if config.corpus.sentences is not None else ())]
    return [corpus / "train.jsonl" for corpus in corpora]


def training_examples(config: RunConfig) -> Iterator[Example]:
    """The training split, a sentence at a time and one corpus after the other; the first reference
    of each example is its target under the method.

    Raises:
        UserError: the split is not there, or lacks what the method takes its targets from.
    """
    for place, corpus in enumerate(config.corpus.directories.values()):
        for example in _examples_of(corpus, config):
            yield replace(example, corpus=place) if place else example


def _examples_of(corpus: Path, config: RunConfig) -> Iterator[Example]:
    data, count = config.spec.data, config.corpus.sentences
    if data == "reference":
        yield from some_of(lambda: stream_split(corpus, "train"), count)
        return
    written = _distilled(config)
    path = (written or corpus) / "train.jsonl"
    if written is None or count is None:
        rows = some_of(lambda: read_distilled(path), count)
    else:
        rows = _of_drawn_sources(path, corpus, count)
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


def _distilled(config: RunConfig) -> Path | None:
    """The directory beside the corpus that the method's targets are taken from, if any."""
    return config.corpus.distilled if config.spec.data != "reference" else None


def _of_drawn_sources(path: Path, corpus: Path, count: int) -> Iterator[Distilled]:
    """What the teacher wrote for the sources that are drawn from the corpus.

    The same sources as under methods that learn its references: it may lack some of them, or be
    of this part of the corpus alone, and its rows are in the corpus's order.

    Raises:
        UserError: they are not.
    """
    total = sum(1 for _ in stream_split(corpus, "train"))
    rows = read_distilled(path)
    row = next(rows, None)
    for example, taken in zip(stream_split(corpus, "train"), drawn(total, count), strict=True):
        if row is not None and row.source == example.source:
            if taken:
                yield row
            row = next(rows, None)
    if row is not None:
        raise UserError(
            f"{path} was not written for {corpus}, of which corpus.sentences draws a part: "
            f"{row.source[:60]!r} is not there, or not in its place; have it written with `imitkd "
            f"data distil {corpus}`, or leave corpus.sentences out"
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
