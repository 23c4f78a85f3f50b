"""A batch in portions: every row once, work even, and the same after a journey."""

from __future__ import annotations

from itertools import accumulate, combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from student_trainer.portions import Portion, run_lengths, split
from student_trainer.types import Ragged, ScoredShard, TeacherLabels


def work(lengths: list[int], runs: list[int]) -> int:
    """The most of any run: its rows times its longest."""
    parts = [lengths[end - run : end] for run, end in zip(runs, accumulate(runs), strict=True)]
    return max(len(part) * max(part, default=0) for part in parts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=8), st.integers(1, 4))
def test_no_runs_have_less_work(lengths, count):
    lengths.sort(reverse=True)
    runs = run_lengths(lengths, count)
    assert len(runs) == count and sum(runs) == len(lengths)
    cuts = combinations_with_replacement(range(len(lengths) + 1), count - 1)
    others = (np.diff([0, *cut, len(lengths)]).tolist() for cut in cuts)
    assert work(lengths, runs) == min(work(lengths, other) for other in others)


def test_rows_of_a_length_are_shared_evenly_and_a_runaway_is_alone():
    assert run_lengths([7] * 9, 3) == [3, 3, 3]
    assert run_lengths([200] + [10] * 20, 2) == [1, 20]
    assert run_lengths([5], 3) == [1, 0, 0]
    assert run_lengths([], 2) == [0, 0]


def shard(number: int, lengths: list[int], scored: list[bool]) -> ScoredShard:
    """Rows whose every id and label tells which row and position it is of."""
    targets = [
        [100 * (10 * number + row) + t for t in range(length)] for row, length in enumerate(lengths)
    ]
    ids = np.array([i for row in targets for i in row], np.int32)
    positions = np.flatnonzero(np.repeat(scored, lengths))
    labels = TeacherLabels(
        positions,
        ids[positions][:, None],
        -ids[positions][:, None].astype(np.float32),
        -ids[positions].astype(np.float32),
        states_QD=np.tile(ids[positions][:, None], (1, 3)).astype(np.float32),
    )
    return ScoredShard(
        batch=4,
        shard=number,
        version=3,
        beta=0.5,
        sources=Ragged.of([row[:1] for row in targets]),
        targets=Ragged.of(targets),
        from_student=np.array(scored),
        labels=labels if len(positions) else None,
    )


SHARDS = [
    shard(0, [3, 9, 1], [True, False, True]),
    shard(1, [4, 4, 2, 30], [False, False, False, False]),
    shard(2, [2, 5], [True, True]),
]


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_every_row_is_in_one_part_with_its_own_labels(count):
    seen = []
    for part in split(SHARDS, count):
        assert [(s.batch, s.shard, s.version) for s in part] == [(4, j, 3) for j in range(3)]
        for whole, mine in zip(SHARDS, part, strict=True):
            rows = [row.tolist() for row in mine.targets.rows()]
            assert [r.tolist() for r in mine.sources.rows()] == [row[:1] for row in rows]
            was_scored = dict(
                zip([r[0] for r in whole.targets.rows()], whole.from_student, strict=True)
            )
            assert [bool(was_scored[row[0]]) for row in rows] == mine.from_student.tolist()
            expected = [i for row in rows for i in row if was_scored[row[0]]]
            assert (mine.labels is not None) == bool(expected)
            if mine.labels is not None:
                assert mine.targets.ids_P[mine.labels.positions].tolist() == expected
                assert mine.labels.ids_QK[:, 0].tolist() == expected
                assert (-mine.labels.log_probs_QK[:, 0]).tolist() == expected
                assert (-mine.labels.tail_log_mass_Q).tolist() == expected
                assert mine.labels.token_log_probs_Q is None
                assert mine.labels.states_QD is not None
                assert mine.labels.states_QD[:, 2].tolist() == expected
            seen += [row[0] for row in rows]
    assert sorted(seen) == sorted(row[0] for s in SHARDS for row in s.targets.rows())


def test_a_portion_is_the_same_after_a_journey():
    for portion in Portion.whole(5, SHARDS).divided(3):
        came = Portion.of_tensors(load(save(portion.tensors())))
        assert (came.step, came.positions) == (5, 60)
        assert [(s.batch, s.shard) for s in came.shards] == [(4, 0), (4, 1), (4, 2)]
        for sent, found in zip(portion.shards, came.shards, strict=True):
            for side in ("sources", "targets"):
                there, here = getattr(found, side), getattr(sent, side)
                assert np.array_equal(there.ids_P, here.ids_P) and there.ids_P.dtype == np.int32
                assert np.array_equal(there.lengths_B, here.lengths_B)
            assert (found.labels is None) == (sent.labels is None)
            if sent.labels is not None and found.labels is not None:
                sent_arrays, arrays = sent.labels.arrays(), found.labels.arrays()
                assert sent_arrays.keys() == arrays.keys()
                assert all(np.array_equal(arrays[k], sent_arrays[k]) for k in arrays)
                assert np.array_equal(found.labels.positions, sent.labels.positions)


def test_more_shards_than_ten_come_in_their_order():
    shards = [shard(j, [j + 1], [True]) for j in range(12)]
    came = Portion.of_tensors(load(save(Portion.whole(1, shards).tensors())))
    assert [s.positions for s in came.shards] == list(range(1, 13))
