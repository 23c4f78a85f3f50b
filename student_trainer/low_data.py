"""The low-data setting: one random part of a corpus, the same for every method, seed and command.

Released corpora lie source by source, so that their first rows are no small picture of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from typing import TypeVar

import numpy as np

from seq2seq.noise import keyed

_SEED = 0x64617461
Row = TypeVar("Row")


def drawn(total: int, count: int) -> np.ndarray:
    """bool ``[total]``: the rows that are drawn, ``count`` of them or all where there are no more.

    A function of the two numbers; a smaller part lies within a larger one.
    """
    if count >= total:
        return np.ones(total, dtype=bool)
    # Different for different rows, so none is as large as another.
    place = keyed(_SEED, np.arange(total))
    return place <= np.partition(place, count - 1)[count - 1]


def some_of(read: Callable[[], Iterable[Row]], count: int | None) -> Iterator[Row]:
    """The rows that are drawn, in their order; all of them where no number is given.

    Args:
        read: goes through the rows from the first; called twice, so that they need not be held.
    """
    if count is None:
        return iter(read())
    total = sum(1 for _ in read())
    return compress(read(), drawn(total, count))
