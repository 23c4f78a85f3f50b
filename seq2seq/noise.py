"""Randomness addressed by key: the same (seed, key, position) gives the same number anywhere."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser (Steele et al. 2014): uint64 to well-mixed uint64."""
    with np.errstate(over="ignore"):
        z = values + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def keyed(seed: int, *keys: np.ndarray | int) -> np.ndarray:
    """uint64 hash of a seed and keys, broadcast over array keys."""
    state = mix(np.asarray(seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
    for key in keys:
        state = mix(state ^ np.asarray(key, dtype=np.int64).view(np.uint64))
    return state


def uniform_array(seed: int, *keys: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1), one for each key."""
    return (keyed(seed, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
