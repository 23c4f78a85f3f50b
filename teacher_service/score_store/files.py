"""The files of records and index entries, and the checksum that ties them together."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

RECORDS, INDEX = ".records", ".index"

# One pair: content key, first byte of its record, target positions, checksum of all of that and
# the record.
ENTRY = np.dtype([("key", "S32"), ("offset", "<u8"), ("positions", "<u4"), ("crc", "<u4")])


def entry_of(key: bytes, offset: int, positions: int, record: bytes) -> np.ndarray:
    """The index entry of a record, 0-dimensional."""
    entry = np.array((key, offset, positions, 0), ENTRY)
    entry["crc"] = checksum(entry, record)
    return entry


def checksum(entry: np.ndarray | np.void, record: bytes) -> int:
    """CRC-32 of key, place and positions, then the record: notices damage to either file."""
    start = zlib.crc32(entry.tobytes()[: ENTRY.fields["crc"][1]])  # type: ignore[index]
    return zlib.crc32(record, start)


def index_files(directory: Path) -> list[Path]:
    """Index files of a store, oldest first."""
    return sorted(directory.glob("[0-9]*" + INDEX), key=number_of)


def number_of(file: Path) -> int:
    """The number in a file's name, -1 where it is none."""
    return int(file.stem) if file.stem.isdecimal() else -1
