"""A stream in parts: all of it, in order, and no more read than is asked for."""

from __future__ import annotations

from seq2seq.parts import parts_of


def test_parts_are_the_whole_in_order() -> None:
    assert list(parts_of(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(parts_of("ab", 2)) == [["a", "b"]] and list(parts_of([], 2)) == []


def test_one_part_is_read_at_a_time() -> None:
    stream = iter(range(7))
    assert next(parts_of(stream, 3)) == [0, 1, 2] and next(stream) == 3
