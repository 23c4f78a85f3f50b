"""Which rows make up which batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.plan import BatchPlan
from tests import oracles

plans = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(1, 120)),
    st.integers(0, 5),
).filter(lambda p: p[1] is not None or p[2] is not None)


def epoch_batches(plan: BatchPlan, epoch: int) -> list[np.ndarray]:
    first = 0
    while plan.epoch_of(first) < epoch:
        first += 1
    found = []
    while plan.epoch_of(first) == epoch:
        found.append(plan.rows(first))
        first += 1
    return found


def test_a_plan_needs_a_bound() -> None:
    with pytest.raises(ValueError, match="sentences or tokens"):
        BatchPlan(np.array([3]), seed=0)


@settings(max_examples=40, deadline=None)
@given(plans)
def test_every_epoch_visits_every_row_once_within_the_bounds(
    setting: tuple[list[int], int | None, int | None, int],
) -> None:
    lengths, sentences, tokens, seed = setting
    plan = BatchPlan(np.array(lengths), seed=seed, sentences=sentences, tokens=tokens)
    for epoch in (0, 1, 2):
        batches = epoch_batches(plan, epoch)
        visited = sorted(int(row) for rows in batches for row in rows)
        assert visited == list(range(len(lengths)))
        for rows in batches:
            longest = max(lengths[r] for r in rows)
            assert sentences is None or len(rows) <= sentences
            assert tokens is None or len(rows) * longest <= tokens or len(rows) == 1


@settings(max_examples=20, deadline=None)
@given(plans, st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_random_access_equals_sequential_access(
    setting: tuple[list[int], int | None, int | None, int], asked: list[int]
) -> None:
    lengths, sentences, tokens, seed = setting

    def make() -> BatchPlan:
        return BatchPlan(np.array(lengths), seed=seed, sentences=sentences, tokens=tokens)

    sequential = make()
    rows = [sequential.rows(i).tolist() for i in range(41)]
    jumping = make()
    assert [jumping.rows(i).tolist() for i in asked] == [rows[i] for i in asked]
    assert [jumping.epoch_of(i) for i in asked] == [sequential.epoch_of(i) for i in asked]


@settings(max_examples=60, deadline=None)
@given(plans)
def test_batches_are_those_of_the_plain_algorithm(
    setting: tuple[list[int], int | None, int | None, int],
) -> None:
    lengths, sentences, tokens, seed = setting
    plan = BatchPlan(np.array(lengths, np.int32), seed=seed, sentences=sentences, tokens=tokens)
    for epoch in range(3):
        expected = oracles.planned_epoch(np.array(lengths), seed, epoch, sentences, tokens)
        found = [rows.tolist() for rows in epoch_batches(plan, epoch)]
        assert found == [rows.tolist() for rows in expected]


def test_the_digest_of_a_plan_is_that_of_bounds_and_lengths() -> None:
    """Runs keep it: it may not change with the dtype of the lengths or their number."""
    assert BatchPlan(LENGTHS, seed=1, sentences=16).digest == "86eddbd7924bbceb"
    narrow = BatchPlan(LENGTHS.astype(np.int32), seed=1, sentences=16)
    assert narrow.digest == "86eddbd7924bbceb"
    assert BatchPlan(LENGTHS, seed=2, sentences=16).digest != narrow.digest


LENGTHS = np.random.default_rng(0).integers(1, 30, 200)


def test_rows_of_a_batch_are_of_similar_length_shortest_first() -> None:
    batches = epoch_batches(BatchPlan(LENGTHS, seed=1, sentences=16), 0)
    spans = sorted((int(LENGTHS[b].min()), int(LENGTHS[b].max())) for b in batches)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    assert all((np.diff(LENGTHS[rows]) >= 0).all() for rows in batches)
    assert len(batches) == -(-200 // 16)


def test_padding_is_bounded() -> None:
    """Lengths of real text: most short, a few very long."""
    lengths = np.random.default_rng(1).lognormal(2.5, 0.6, 5000).astype(int).clip(1, 120)
    plan = BatchPlan(lengths, seed=3, tokens=1024)
    batches = [lengths[rows] for rows in epoch_batches(plan, 0)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert padded / lengths.sum() < 1.04
    # A batch spans more than a few lengths only where long ones are rare.
    assert np.median([batch.max() - batch.min() for batch in batches]) <= 1


def test_batches_are_as_full_as_the_budget_allows() -> None:
    batches = epoch_batches(BatchPlan(LENGTHS, seed=1, tokens=120), 0)
    batches.sort(key=lambda rows: (LENGTHS[rows[-1]], LENGTHS[rows[0]], -len(rows)))
    for rows, following in itertools.pairwise(batches):
        assert (len(rows) + 1) * LENGTHS[following[0]] > 120


def test_batches_come_in_random_order_and_company_changes_with_epoch_and_seed() -> None:
    plan = BatchPlan(LENGTHS, seed=1, sentences=16)
    first, second = epoch_batches(plan, 0), epoch_batches(plan, 1)
    other = epoch_batches(BatchPlan(LENGTHS, seed=2, sentences=16), 0)
    means = [float(LENGTHS[rows].mean()) for rows in first]
    assert means != sorted(means) and means != sorted(means, reverse=True)
    companies = [
        {frozenset(rows.tolist()) for rows in batches} for batches in (first, second, other)
    ]
    assert companies[0] != companies[1] and companies[0] != companies[2]
    orders = [
        [float(LENGTHS[rows].mean()) for rows in batches] for batches in (first, second, other)
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]
