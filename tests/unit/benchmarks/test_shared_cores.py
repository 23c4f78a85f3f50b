"""Cores that jobs share, against times worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest

from benchmarks.shared_cores import SharedCores


def ends(cores: float, jobs: list[tuple[float, float, int]]) -> list[tuple[str, float]]:
    """Jobs as (begin, seconds, threads), in order of their begin; which ended, and when."""
    shared, found = SharedCores(cores), []
    waiting = list(enumerate(jobs))
    while waiting or shared.next_end() < math.inf:
        if waiting and waiting[0][1][0] <= shared.next_end():
            number, (begin, seconds, threads) = waiting.pop(0)
            shared.begin(begin, seconds, threads, partial(str, number))
        else:
            now = shared.next_end()
            found.append((shared.end_next()(), now))
    return found


@pytest.mark.parametrize(
    ("cores", "jobs", "expected"),
    [
        (2, [(0, 3, 1)], [("0", 3)]),  # one thread has one core
        (1, [(0, 3, 2)], [("0", 6)]),  # two threads have half of it each
        (1, [(0, 1, 1), (0, 3, 1)], [("0", 2), ("1", 4)]),
        # Alone for 2 s, then at two thirds for 3 s; the other two have 1 s of theirs left.
        (2, [(0, 4, 1), (2, 3, 2)], [("0", 5), ("1", 6)]),
        (2, [(0, 1, 1), (5, 1, 1)], [("0", 1), ("1", 6)]),  # nothing is done while there is none
    ],
)
def test_each_thread_gets_the_same_part(cores, jobs, expected):
    assert ends(cores, jobs) == [(n, pytest.approx(t)) for n, t in expected]
