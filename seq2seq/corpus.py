"""Corpus directories, read.

One holds ``corpus.json`` and ``{train,validation,test...}.jsonl``, one object a line:
``{"source": text, "references": [text, ...]}``. The first reference is the training target; an
empty list marks a source-only sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError


@dataclass(frozen=True, order=True)
class Example:
    """One sentence and its reference translations (none for source-only text).

    The first reference is the training target.

    Attributes:
        corpus: its place among the corpora that are read together, from 0.
    """

    source: str
    references: tuple[str, ...] = ()
    corpus: int = 0


def read_split(corpus: Path | str, split: str) -> list[Example]:
    """One split of a corpus directory, all of it. Raises as :func:`stream_split` does."""
    return list(stream_split(corpus, split))


def stream_split(corpus: Path | str, split: str) -> Iterator[Example]:
    """One split of a corpus directory, a sentence at a time.

    Raises:
        UserError: the directory or the split is missing, empty or malformed (with its line).
    """
    path = Path(corpus) / f"{split}.jsonl"
    if not path.is_file():
        have = ", ".join(sorted(found.stem for found in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(
            f"{path} does not exist (splits there: {have}); prepare the corpus with `imitkd data "
            "prepare` and check its path"
        )
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _example(json.loads(line.decode()))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number}: not an object with 'source' and 'references' ({error!r}); "
                    "prepare the corpus again"
                ) from error
    if not number:
        raise UserError(f"{path} is empty; prepare the corpus again")


def _example(record: Any) -> Example:
    source, references = record["source"], record["references"]
    if not isinstance(source, str):
        raise TypeError(f"source {source!r} is no text")
    # A bare text would fall into its letters.
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise TypeError(f"references {references!r} are no list of texts")
    return Example(source, tuple(references))
