"""Lines of standard input, a batch at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary


def read_lines(stream: BinaryIO, batch: int) -> Iterator[tuple[int, list[str]]]:
    """Batches of texts with the index of their first line.

    Raises:
        UserError: a line is not UTF-8, with its number.
    """
    first, texts = 0, []
    for number, line in enumerate(stream, 1):
        try:
            texts.append(line.decode().rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"line {number} is not UTF-8 ({error.reason}); convert it first"
            ) from error
        if len(texts) == batch:
            yield first, texts
            first, texts = first + batch, []
    if texts:
        yield first, texts


def encode_lines(
    vocabulary: Vocabulary, texts: Sequence[str], first: int, limit: int
) -> list[list[int]]:
    """Encoder inputs of at most ``limit`` ids, the end symbol included.

    A longer text loses its end; a line on standard error says so, and the other lines go on.

    Args:
        first: index of the first text's line, from 0.
    """
    sources = []
    for number, ids in enumerate(vocabulary.encode_many(texts), first + 1):
        length = len(vocabulary.as_source(ids))
        if length > limit:
            print(
                f"imitkd: line {number} has {length} ids, more than the model's {limit}: its "
                "end was left out; split it",
                file=sys.stderr,
            )
        sources.append(vocabulary.as_source(ids, limit))
    return sources
