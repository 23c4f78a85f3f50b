"""Whole files through a :class:`~imitkd.translator.Translator`, a batch of lines at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from imitkd.text_lines import encode_lines, read_lines
from imitkd.translator import Translator
from seq2seq.errors import UserError


def translate_lines(
    translator: Translator, source: Path | None, output: Path | None, batch: int
) -> None:
    """Translate line by line, in order.

    Args:
        source: None reads standard input, without a progress bar.
        output: None writes to standard output, batch by batch.

    Raises:
        UserError: a file cannot be read or written, or a line is not UTF-8.
    """
    engine = translator.engine
    with _reading(source) as stream, _writing(output) as out:
        for first, texts in read_lines(stream, batch):
            sources = encode_lines(engine.vocabulary, texts, first, engine.longest_source)
            for text in translator.translate_ids(sources):
                print(text, file=out)
            out.flush()


@contextlib.contextmanager
def _reading(source: Path | None) -> Iterator[BinaryIO]:
    if source is None:
        yield sys.stdin.buffer
        return
    from rich.console import Console
    from rich.progress import wrap_file

    try:
        file = open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; check its path") from error
    console = Console(stderr=True)
    size = source.stat().st_size
    with (
        file,
        wrap_file(
            file,
            size,
            description="translate",
            console=console,
            disable=not console.is_terminal,
        ) as stream,
    ):
        yield stream


@contextlib.contextmanager
def _writing(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    from seq2seq.checkpoint import atomic_file

    with atomic_file(output) as fresh, open(fresh, "w", encoding="utf-8") as file:
        yield file
