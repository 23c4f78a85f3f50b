"""Rows that outlive their batch: which come back, with what labels, and through a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from student_trainer.assembly import assemble
from student_trainer.config import make_config
from student_trainer.mixing import is_fresh
from student_trainer.row_pool import RowPool
from student_trainer.types import Ragged, ScoredShard, TeacherLabels


def shard(
    batch: int,
    rows: Sequence[tuple[list[int], bool]],
    number: int = 0,
    replayed: int = 0,
    everyone: bool = False,
) -> ScoredShard:
    """Rows of (target, written by the student); the label at each position is its token + 100.

    Sources are the first token of the target. Data rows are labelled where ``everyone``.
    """
    targets = [target for target, _ in rows]
    flat = [(v, own or everyone) for target, own in rows for v in target]
    at = np.array([i for i, (_, asked) in enumerate(flat) if asked], np.int64)
    tokens = np.array([flat[i][0] for i in at], np.int32)
    labels = TeacherLabels(
        at,
        (tokens + 100)[:, None],
        -tokens[:, None].astype(np.float32),
        np.zeros(len(at), np.float32),
        tokens.astype(np.float32),
    )
    return ScoredShard(
        batch,
        number,
        0,
        0.5,
        Ragged.of([[target[0]] for target in targets]),
        Ragged.of(targets),
        np.array([own for _, own in rows], bool),
        labels if len(at) else None,
        replayed=replayed,
    )


def rows_of(shards: Sequence[ScoredShard]) -> list[tuple[list[int], bool]]:
    return [
        (t.tolist(), bool(own))
        for s in shards
        for t, own in zip(s.targets.rows(), s.from_student, strict=True)
    ]


def check_labels(shards: Sequence[ScoredShard], labelled: int) -> None:
    """Every label lies at the token it was given for; sources go with their targets."""
    batch = assemble(shards, 0, "cpu")
    assert batch.scored_positions == labelled
    scored = batch.target_P[:labelled]
    assert batch.ids_QK[:, 0].tolist() == (scored + 100).tolist()
    assert batch.token_log_probs_Q.tolist() == scored.tolist()
    for s in shards:
        for source, target in zip(s.sources.rows(), s.targets.rows(), strict=True):
            assert source.tolist() == [target[0]]


@pytest.mark.parametrize("everyone", [False, True])
def test_replay_adds_rows_of_earlier_batches_where_shards_left_some_out(everyone: bool) -> None:
    pool = RowPool("replay", 100, seed=1)
    first = pool.exchange([shard(0, [([5, 6], True), ([7], False)], everyone=everyone)])
    assert rows_of(first) == [([5, 6], True), ([7], False)] and len(pool) == 1
    later = [
        shard(1, [([8], False), ([9, 9, 9], True)], 0, replayed=2, everyone=everyone),
        shard(1, [], 1, replayed=1),
    ]
    second = pool.exchange(later)
    assert rows_of(second) == [
        ([8], False), ([9, 9, 9], True), ([5, 6], True), ([5, 6], True), ([5, 6], True)
    ]  # fmt: skip
    check_labels(second, 3 + 6 + everyone)
    assert len(pool) == 2


def test_rows_left_out_while_the_pool_is_empty_stay_left_out() -> None:
    pool = RowPool("replay", 100, seed=1)
    assert rows_of(pool.exchange([shard(0, [([5], False)], replayed=3)])) == [([5], False)]
    nothing = pool.exchange([shard(1, [], replayed=2)])
    assert rows_of(nothing) == [] and assemble(nothing, 0, "cpu").positions == 0


def test_aggregation_draws_a_batchs_student_rows_from_all_there_ever_were() -> None:
    pool, seen = RowPool("aggregation", 1000, seed=3), set()
    for batch in range(40):
        own = [20 + batch, 2]
        learnt = pool.exchange([shard(batch, [([10], False), (own, True), (own, True)])])
        (data, *students) = rows_of(learnt)
        assert data == ([10], False) and all(mine for _, mine in students) and len(students) == 2
        check_labels(learnt, 4)
        assert all(20 <= target[0] <= 20 + batch for target, _ in students)
        seen |= {batch + 20 - target[0] for target, _ in students}
    assert len(pool) == 80 and max(seen) > 20 and 0 in seen


def test_the_oldest_rows_go_first() -> None:
    pool = RowPool("aggregation", 3, seed=1)
    for batch in range(4):
        pool.exchange([shard(batch, [([batch + 5], True)])])
    assert pool.export()["target_ids"].tolist() == [6, 7, 8]


def test_draws_are_a_function_of_seed_and_batch() -> None:
    def run(seed: int) -> list[Any]:
        pool = RowPool("aggregation", 100, seed)
        return [rows_of(pool.exchange([shard(b, [([b + 5, 1], True)] * 3)])) for b in range(6)]

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("kind", ["aggregation", "replay"])
def test_a_pool_comes_back_from_a_checkpoint(kind: Any) -> None:
    pool = RowPool(kind, 100, seed=1)
    pool.exchange([shard(0, [([5, 6, 7], True), ([8], True)], 0), shard(0, [([9, 9], True)], 1)])
    again = RowPool(kind, 100, seed=1)
    again.restore(pool.export())
    later = [shard(1, [([11], True), ([12], False)], replayed=4)]
    first, second = pool.exchange(later), again.exchange(later)
    assert rows_of(first) == rows_of(second)
    for a, b in zip(first, second, strict=True):
        assert vars(a.labels).keys() == vars(b.labels).keys()
        for name, array in vars(a.labels).items():
            np.testing.assert_array_equal(array, getattr(b.labels, name))
    empty = RowPool(kind, 100, seed=1)
    empty.restore({})
    assert len(empty) == 0 and empty.export() == {}


def test_the_share_of_fresh_rows_rises_to_all(plain_config: dict[str, Any]) -> None:
    config = make_config(
        plain_config | {"method": "replay", "teacher": {"address": "x:1"}, "pool": {"fresh": 0.25}}
    )
    rows = np.arange(4000)
    shares = [is_fresh(config, batch, rows).mean() for batch in range(8)]
    # 4000 draws: five standard deviations are 0.04.
    assert shares == pytest.approx(np.linspace(0.25, 1, 8).tolist(), abs=0.04)
    assert shares[-1] == 1.0
    assert (is_fresh(config, 3, rows) == is_fresh(config, 3, rows)).all()
    assert (is_fresh(config, 3, rows) != is_fresh(config, 4, rows)).any()


def test_data_rows_keep_their_labels_in_the_right_places() -> None:
    pool = RowPool("aggregation", 100, seed=1)
    mixed = [([5, 6], True), ([7, 8, 9], False), ([10], True), ([11, 12], False)]
    learnt = pool.exchange([shard(0, mixed, everyone=True)])
    assert [row for row in rows_of(learnt) if not row[1]] == [mixed[1], mixed[3]]
    batch = assemble(learnt, 0, "cpu")
    check_labels(learnt, batch.positions)


def test_shards_are_not_changed() -> None:
    given = shard(0, [([5, 6], True)])
    before = replace(given)
    RowPool("aggregation", 10, seed=1).exchange([given])
    assert rows_of([given]) == rows_of([before])
