"""Least recently used first, by bytes; what is recalled is what was kept."""

from __future__ import annotations

import numpy as np
import pytest

from teacher_service.caches import ENTRY_BYTES, ByteCache, ScoreCache
from teacher_service.work import ScoreChoice, ScoreItem

CHOICE = ScoreChoice(2, 1, k=2)
PAIRS = [ScoreItem([5, 1], [6, 1]), ScoreItem([7, 1], [8, 1])]


def rows(value: float, count: int = 2) -> dict[str, np.ndarray]:
    return {"token_log_probs": np.full(count, value, np.float16)}


def cache_for(values: int, size: int = 100) -> ByteCache[str, str]:
    return ByteCache(values * (size + ENTRY_BYTES))


def counts(cache: ByteCache) -> tuple[int, int, int]:
    return cache.hits, cache.misses, cache.evictions


def test_the_least_recently_used_goes_first():
    cache = cache_for(3)
    for key in "abc":
        cache.put(key, key.upper(), 100)
    assert cache.get("a") == "A"
    cache.put("d", "D", 100)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert counts(cache) == (4, 1, 1)
    assert len(cache) == 3
    assert cache.held == cache.budget


def test_bytes_count_not_values():
    cache = cache_for(3)
    for key in "abc":
        cache.put(key, key, 100)
    cache.put("large", "large", 2 * 100 + ENTRY_BYTES)
    assert len(cache) == 2
    assert cache.get("a") is cache.get("b") is None
    assert cache.get("c") == "c"
    assert cache.evictions == 2


def test_a_value_larger_than_the_budget_drives_nothing_out():
    cache = cache_for(2)
    cache.put("a", "A", 100)
    cache.put("huge", "H", 10_000)
    assert cache.get("a") == "A"
    assert cache.get("huge") is None
    assert cache.held == 100 + ENTRY_BYTES


def test_a_value_put_again_counts_once():
    cache = cache_for(2)
    cache.put("a", "old", 100)
    cache.put("a", "new", 50)
    assert cache.get("a") == "new"
    assert (len(cache), cache.held, cache.evictions) == (1, 50 + ENTRY_BYTES, 0)


def test_without_a_budget_nothing_is_kept():
    cache: ByteCache[str, str] = ByteCache(0)
    cache.put("a", "A", 0)
    assert cache.get("a") is None
    assert cache.held == len(cache) == 0


def test_cleared_is_as_new():
    cache = cache_for(1)
    cache.put("a", "A", 100)
    cache.put("b", "B", 100)
    assert cache.get("b") and not cache.get("a")
    cache.clear()
    assert counts(cache) == (0, 0, 0)
    assert cache.held == len(cache) == 0


def test_pairs_are_recalled_one_by_one_by_their_index():
    scores = ScoreCache(1 << 20, "r1")
    first = scores.recall(CHOICE, PAIRS)
    assert first.known == {}
    first.keep(1, rows(-1.0))
    found = scores.recall(CHOICE, [*PAIRS, PAIRS[1]]).known
    assert sorted(found) == [1, 2]
    np.testing.assert_array_equal(found[1]["token_log_probs"], rows(-1.0)["token_log_probs"])
    assert counts(scores.cache) == (2, 3, 0)


def test_another_way_of_asking_recalls_nothing():
    scores = ScoreCache(1 << 20, "r1")
    scores.recall(CHOICE, PAIRS[:1]).keep(0, rows(-1.0))
    for choice in (
        ScoreChoice(1, 1),
        ScoreChoice(2, 2, k=2),
        ScoreChoice(2, 1, k=3),
        ScoreChoice(2, 1, temperature=2.0, k=2),
    ):
        assert scores.recall(choice, PAIRS[:1]).known == {}
    assert set(scores.recall(CHOICE, PAIRS[:1]).known) == {0}


def test_what_is_kept_does_not_hold_the_batch_it_was_computed_in():
    scores = ScoreCache(1 << 20, "r1")
    batch = np.arange(1000, dtype=np.float32)
    recall = scores.recall(CHOICE, PAIRS[:1])
    recall.keep(0, {"token_log_probs": batch[10:12]})
    (kept,) = scores.recall(CHOICE, PAIRS[:1]).known.values()
    assert kept["token_log_probs"].base is None
    batch[:] = 0
    assert kept["token_log_probs"].tolist() == [10, 11]
    assert scores.cache.held == 8 + ENTRY_BYTES


@pytest.mark.parametrize("budget", [0, 10])
def test_a_budget_too_small_for_anything_only_forgets(budget):
    scores = ScoreCache(budget, "r1")
    recall = scores.recall(CHOICE, PAIRS)
    if budget:
        recall.keep(0, rows(-1.0, 100))
    assert scores.recall(CHOICE, PAIRS).known == {}
    assert scores.cache.held == 0
