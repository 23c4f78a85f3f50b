"""Plain-text files a user hands over, read line by line with faults named by line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from imitkd.corpora.cleaning import clean_text
from seq2seq.corpus import Example
from seq2seq.errors import UserError

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or .gz, without their ends.

    Only a line feed, or carriage return and line feed, ends a line. Raises UserError when the file
    is missing, unreadable, empty or not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            stream: BinaryIO | gzip.GzipFile = raw
            if path.suffix == ".gz":
                stream = gzip.GzipFile(fileobj=raw)
            empty = True
            for number, line in enumerate(stream, 1):
                empty = False
                if number == 1:
                    line = line.removeprefix(_BOM)
                yield _decode(line.removesuffix(b"\n").removesuffix(b"\r"), path, number)
    except FileNotFoundError:
        raise UserError(f"'{path}' does not exist; check the path") from None
    except IsADirectoryError:
        raise UserError(f"'{path}' is a directory; name a file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' cannot be read ({reason}); get the file again") from None
    if empty:
        raise UserError(f"'{path}' is empty; give a file with at least one line")


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{path}' line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at byte "
            f"{error.start + 1} of the line); convert the file, for instance with "
            "`iconv -f LATIN1 -t UTF-8`"
        ) from None


def read_aligned(source: Path, targets: Sequence[Path]) -> list[Example]:
    """Pairs from files where line n of each belongs together; no target file means source-only.

    Raises UserError when the files differ in their number of lines.
    """
    columns = [list(read_lines(path)) for path in (source, *targets)]
    for path, column in zip(targets, columns[1:], strict=True):
        if len(column) != len(columns[0]):
            raise UserError(
                f"'{source}' has {len(columns[0])} lines and '{path}' has {len(column)}; "
                "line n of one must translate line n of the other"
            )
    return [make_pair(row[0], row[1:]) for row in zip(*columns, strict=True)]


def read_tsv(path: Path) -> list[Example]:
    """Pairs from tab-separated columns: source, then any number of references. No quoting, no
    header. Raises UserError when rows differ in their number of columns."""
    pairs: list[Example] = []
    columns = 0
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        columns = columns or len(fields)
        if len(fields) != columns:
            raise UserError(
                f"'{path}' line {number} has {len(fields)} tab-separated columns, the lines before "
                f"it {columns}; write source and reference(s) in the same number of columns"
            )
        pairs.append(make_pair(fields[0], fields[1:]))
    return pairs


def read_jsonl(path: Path) -> list[Example]:
    """Pairs from one JSON object a line: "source", and "target" and/or "references" (a list).

    "target" comes first of the references; with neither the row is source-only. Raises UserError
    for a line that is something else.
    """
    pairs: list[Example] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"'{path}' line {number} is not JSON ({error}); write one object a line"
            ) from None
        pairs.append(_pair_of_row(row, path, number))
    return pairs


def _pair_of_row(row: Any, path: Path, number: int) -> Example:
    source = row.get("source") if isinstance(row, dict) else None
    references = (row.get("references") or []) if isinstance(row, dict) else []
    target = row.get("target") if isinstance(row, dict) else None
    texts = [source, *([] if target is None else [target])]
    texts += references if isinstance(references, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"'{path}' line {number} is not a corpus row; write "
            '{"source": "...", "target": "..."} or {"source": "...", "references": ["...", ...]}'
        )
    return make_pair(texts[0], texts[1:])


def read_table(path: Path) -> list[Example]:
    """Pairs from a .tsv or .jsonl file (also .gz), told apart by the name."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".tsv", ".txt")):
        return read_tsv(path)
    if name.endswith((".jsonl", ".json", ".ndjson")):
        return read_jsonl(path)
    raise UserError(f"cannot tell the format of '{path}'; name it .tsv or .jsonl (or add .gz)")


def make_pair(source: str, references: Sequence[str]) -> Example:
    """Texts cleaned; references that are empty or said already are left out."""
    texts = (clean_text(reference) for reference in references)
    return Example(clean_text(source), tuple(dict.fromkeys(text for text in texts if text)))
