"""Long arrays written piece by piece, in memory or as files, and read where they lie."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import ArrayLike


class ColumnWriter:
    """Arrays by name, each growing at its end.

    Args:
        dtypes: of each array, with its byte order.
        directory: where each becomes a file of its bare values; None keeps them in memory.

    Raises:
        OSError: here and later, the directory cannot be written.
    """

    def __init__(self, dtypes: Mapping[str, str], directory: Path | None = None) -> None:
        self._dtypes, self._directory = dtypes, directory
        self._sinks: dict[str, IO[bytes]] = {
            name: io.BytesIO() if directory is None else open(directory / name, "wb")  # noqa: SIM115
            for name in dtypes
        }

    def append(self, name: str, values: ArrayLike) -> None:
        """Add values behind those of one array."""
        self._sinks[name].write(np.ascontiguousarray(values, self._dtypes[name]).tobytes())

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything written, to be read only; nothing is written any more."""
        if self._directory is None:
            written = {
                n: s.getbuffer() for n, s in self._sinks.items() if isinstance(s, io.BytesIO)
            }
            return {name: np.frombuffer(written[name], self._dtypes[name]) for name in written}
        self.close()
        return map_columns(self._dtypes, self._directory)

    def close(self) -> None:
        """Close the files."""
        if self._directory is not None:
            for sink in self._sinks.values():
                sink.close()

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def map_columns(dtypes: Mapping[str, str], directory: Path) -> dict[str, np.ndarray]:
    """The arrays of a directory, mapped: what is read of them comes into memory, and the operating
    system takes it out again when memory is short.

    Raises:
        OSError, ValueError: a file is missing, empty or cut off.
    """
    return {
        # A plain array over the map: slices of one are a third as fast where they stay memmaps.
        name: np.memmap(directory / name, dtype, mode="r").view(np.ndarray)
        for name, dtype in dtypes.items()
    }
