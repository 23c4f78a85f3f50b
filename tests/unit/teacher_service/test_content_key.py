"""The content address covers everything an answer depends on, in the documented form."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import fields

import numpy as np
import pytest

from teacher_service.content_key import ContentKeys
from teacher_service.work import ScoreChoice, ScoreItem

ASKED = {"revision": "sha256:é", "kind": 2, "dtype": 1, "k": 64, "temperature": 1.5}


def slow_key(source: list[int], target: list[int], candidates: list[list[int]] | None) -> bytes:
    """The table of the module's documentation, number by number."""
    form = b"imitkd-score" + b"\x00" + b"1"
    name = "sha256:é".encode()
    form += struct.pack("<I", 9) + name + struct.pack("<I", 2) + struct.pack("<I", 1)
    form += struct.pack("<I", 64) + struct.pack("<f", 1.5)
    for ids in (source, target):
        form += struct.pack("<I", len(ids))
        for token in ids:
            form += struct.pack("<I", token)
    form += struct.pack("<I", len(candidates[0]) if candidates else 0)
    for row in candidates or []:
        for token in row:
            form += struct.pack("<I", token)
    return hashlib.sha256(form).digest()


@pytest.mark.parametrize(
    ("source", "target", "candidates"),
    [([5, 1], [6, 70000, 1], None), ([5], [], None), ([5, 1], [6, 1], [[1, 2, 3], [9, 8, 7]])],
)
def test_the_key_is_the_hash_of_the_documented_form(source, target, candidates):
    keys = ContentKeys(**ASKED)
    array = None if candidates is None else np.array(candidates, np.uint16)
    assert keys.key(source, target, array) == slow_key(source, target, candidates)
    as_arrays = (np.array(source, np.int64), np.array(target, ">i4"))
    assert keys.key(*as_arrays, array) == slow_key(source, target, candidates)


def test_the_first_form_never_changes():
    """Records on disk are found by it."""
    key = ContentKeys("sha256:0", 2, 1, 64, 1.0).key([17, 5, 1], [40, 8, 1])
    assert key.hex() == GOLDEN


GOLDEN = "00c4d6df12498d253813a4db0cc8e5662a84604c01eacf9f3fd01df9f0e55026"


@pytest.mark.parametrize(
    "change", [{"revision": "x"}, {"kind": 1}, {"dtype": 2}, {"k": 63}, {"temperature": 1.0}]
)
def test_another_way_of_asking_is_another_key(change):
    pair = [5, 1], [6, 1]
    assert ContentKeys(**ASKED | change).key(*pair) != ContentKeys(**ASKED).key(*pair)


def test_no_two_pairs_share_an_encoding():
    keys = ContentKeys(**ASKED)
    asked = [
        keys.key([5, 6], [7]),
        keys.key([5], [6, 7]),
        keys.key([5, 6, 7], []),
        keys.key([5, 6], [7], np.array([[1, 2]])),
        keys.key([5, 6], [7], np.array([[2, 1]])),
        keys.key([5, 6], [7], np.array([[1]])),
    ]
    assert len(set(asked)) == len(asked)


def test_the_key_knows_every_field_of_what_can_be_asked():
    """A new field must change the key, or pairs that differ in it would share an answer."""
    assert {f.name for f in fields(ScoreChoice)} == {"kind", "dtype", "temperature", "k"}
    assert {f.name for f in fields(ScoreItem)} == {"source", "target", "candidates"}
