"""Marian's own model format, ``.npz``: numpy's, read without pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from seq2seq.errors import UserError

# Weights hardly shrink when packed: what unpacks to more than this many times the file is no model.
_MAX_EXPANSION = 32
# RuntimeError: a password, or a kind of archive that Python does not know.
_FAULTS = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All items by name: float32, text items as int8.

    Raises:
        UserError: not such a file, damaged, or with values that are no numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_EXPANSION * path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked} bytes")
        with np.load(path, allow_pickle=False) as file:
            items = {name: file[name] for name in file.files}
    except _FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is no whole Marian model ({reason}); download it again, or give the model's "
            "own .npz or .bin"
        ) from error
    return {name: _plain(path, name, array) for name, array in items.items()}


def _plain(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.itemsize == 1:
        return array.view(np.int8)
    if array.dtype.kind != "f":
        raise UserError(f"{path}: {name} holds {array.dtype}, not floating-point numbers")
    return array.astype(np.float32)
