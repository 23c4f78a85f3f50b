"""Streams a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def parts_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items in their order, the last one shorter; one is read at a time."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
