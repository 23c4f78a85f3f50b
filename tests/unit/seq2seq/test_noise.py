"""Keyed randomness: a function of its keys, uniform, and unrelated from key to key."""

from __future__ import annotations

import numpy as np
import pytest

from seq2seq.noise import keyed, mix, uniform_array
from tests.oracles import chi_square

MANY = 20_000


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (0, 0xE220A8397B1DCDAF),
        (1234567, 6457827717110365317),
        ((1234567 + 0x9E3779B97F4A7C15) % 2**64, 3203168211198807973),
    ],
)
def test_mix_is_splitmix64(state: int, expected: int) -> None:
    assert int(mix(np.asarray(state, dtype=np.uint64))) == expected


def test_arrays_and_single_keys_agree() -> None:
    rows, positions = np.arange(5), np.arange(-3, 4)
    table = keyed(9, rows[:, None], positions[None])
    assert table.shape == (5, 7)
    for i in rows:
        for j, position in enumerate(positions):
            assert int(table[i, j]) == int(keyed(9, int(i), int(position)))


@pytest.mark.parametrize("key", [0, -1, 2**62, -(2**63), 2**63 - 1])
def test_any_64_bit_key_and_seed(key: int) -> None:
    assert 0 <= float(uniform_array(key, key)) < 1


def test_every_key_counts_and_so_does_their_order() -> None:
    found = {int(keyed(*k)) for k in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2), (1, 2, 3, 0), (1,)]}
    assert len(found) == 6


@pytest.mark.parametrize(
    "numbers",
    [
        uniform_array(1, np.arange(MANY)),
        uniform_array(1, 7, np.arange(MANY)),
        uniform_array(1, np.arange(MANY), 7),
        uniform_array(1, -1 - np.arange(MANY)),
        np.array([float(uniform_array(seed, 3)) for seed in range(3000)]),
    ],
    ids=["keys", "second-key", "first-key", "negative", "seeds"],
)
def test_uniform_in_the_unit_interval(numbers: np.ndarray) -> None:
    assert numbers.dtype == np.float64 and numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert abs(chi_square(counts.tolist(), [1 / 50] * 50)) < 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (uniform_array(1, np.arange(MANY)), uniform_array(1, 1 + np.arange(MANY))),
        (uniform_array(1, np.arange(MANY)), uniform_array(2, np.arange(MANY))),
        (uniform_array(1, np.arange(MANY), 0), uniform_array(1, np.arange(MANY), 1)),
        (uniform_array(1, 0, np.arange(MANY)), uniform_array(1, 1, np.arange(MANY))),
    ],
    ids=["neighbours", "seeds", "positions", "batches"],
)
def test_unrelated_from_key_to_key(first: np.ndarray, second: np.ndarray) -> None:
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / MANY**0.5
    counts = np.histogram2d(first, second, bins=8, range=[[0, 1], [0, 1]])[0].flatten()
    assert abs(chi_square(counts.tolist(), [1 / 64] * 64)) < 4
