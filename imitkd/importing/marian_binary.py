"""Marian's binary model format, ``.bin``: read without trusting anything it says of itself.

Little-endian throughout: version (u64), number of items (u64); for each item the lengths of its
name, its shape and its data, with its type in between (four u64: name length, type, rank, data
length); all names, each ended by a zero byte; all shapes (i32 a dimension); a u64 that says how
many bytes to skip so that data is aligned; then the data of the items, one behind the other.

A matrix of type ``intgemm8`` is int8, with the factor it was multiplied by as a float32 behind it.
A weight ``W`` is kept transposed, an embedding table as it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from seq2seq.errors import UserError

VERSION = 1
INT8, FLOAT16, FLOAT32, INTGEMM8 = 0x0101, 0x0402, 0x0404, 0x4101
_PLAIN = {INT8: "<i1", FLOAT16: "<f2", FLOAT32: "<f4"}
_MAX_RANK = 8
# Whatever is looked up by id is a table; everything else of two dimensions is multiplied with.
_TABLES = ("Wemb", "encoder_Wemb", "decoder_Wemb")


@dataclass(frozen=True)
class _Header:
    name_length: int
    type: int
    rank: int
    data_length: int


def is_binary_model(path: Path) -> bool:
    """Whether a file begins as a Marian model does; a lexical short-list, ``.bin`` as well, does
    not."""
    with open(path, "rb") as file:
        return file.read(8) == struct.pack("<Q", VERSION)


def read_binary(path: Path) -> dict[str, np.ndarray]:
    """All items by name: float32 in their stated shapes, text items as int8.

    Raises:
        UserError: not such a file, cut short, damaged, or with weights packed for one processor.
    """
    reader = _Reader(path, path.read_bytes())
    version, count = reader.numbers("Q", 2)
    if version != VERSION:
        raise UserError(
            f"{path} is no Marian model (binary version {version}, expected {VERSION}); give the "
            "model's own .bin or .npz"
        )
    reader.expect(32 * count, f"headers of {count} items")
    headers = [_Header(*reader.numbers("Q", 4)) for _ in range(count)]
    names = [reader.name(header.name_length) for header in headers]
    if len(set(names)) != count:
        raise reader.damaged("two items have one name")
    shapes = [reader.shape(name, h.rank) for name, h in zip(names, headers, strict=True)]
    reader.take(reader.numbers("Q", 1)[0], "the gap before the data")
    return {
        name: _values(reader, name, header, shape)
        for name, header, shape in zip(names, headers, shapes, strict=True)
    }


def _values(reader: _Reader, name: str, header: _Header, shape: tuple[int, ...]) -> np.ndarray:
    data = reader.take(header.data_length, f"the data of {name}")
    count = prod(shape)
    if header.type == INTGEMM8:
        if len(shape) != 2 or len(data) < count + 4:
            raise reader.damaged(f"{name} has {len(data)} bytes for int8 of shape {shape}")
        return _dequantised(reader, name, data, shape)
    if header.type not in _PLAIN:
        raise UserError(
            f"{reader.path}: {name} is of type {header.type:#06x}, packed for one processor or "
            "unknown; give the model as .npz, or as .bin of type intgemm8 or float32"
        )
    dtype = np.dtype(_PLAIN[header.type])
    if len(data) < count * dtype.itemsize:
        raise reader.damaged(f"{name} has {len(data)} bytes for {dtype.name} of shape {shape}")
    values = np.frombuffer(data, dtype, count).reshape(shape)
    return values if header.type == INT8 else values.astype(np.float32)


def _dequantised(
    reader: _Reader, name: str, data: memoryview, shape: tuple[int, ...]
) -> np.ndarray:
    count = prod(shape)
    (factor,) = struct.unpack_from("<f", data, count)
    if not (np.isfinite(factor) and factor > 0):
        raise reader.damaged(f"{name} was multiplied by {factor}")
    values = np.frombuffer(data, np.int8, count).astype(np.float32) / np.float32(factor)
    return values.reshape(shape) if name in _TABLES else values.reshape(shape[::-1]).T


class _Reader:
    """Bytes taken from the front; more than there are is a fault of the file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._left = path, memoryview(content)

    def damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.path} is no whole Marian model ({reason}); download it again, or give the "
            "model's own .bin or .npz"
        )

    def expect(self, count: int, what: str) -> None:
        """Say that much must be left."""
        if count > len(self._left):
            raise self.damaged(f"{what} need {count} bytes, {len(self._left)} are left")

    def take(self, count: int, what: str) -> memoryview:
        self.expect(count, what)
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def numbers(self, kind: str, count: int) -> tuple[int, ...]:
        form = f"<{count}{kind}"
        return struct.unpack(form, self.take(struct.calcsize(form), "numbers"))

    def name(self, length: int) -> str:
        raw = bytes(self.take(length, "a name"))
        try:
            name = raw.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a name is not UTF-8") from error
        if not name:
            raise self.damaged("an item has no name")
        return name

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        if not 1 <= rank <= _MAX_RANK:
            raise self.damaged(f"{name} has {rank} dimensions")
        shape = self.numbers("i", rank)
        if min(shape) < 1:
            raise self.damaged(f"{name} has the shape {shape}")
        return shape
