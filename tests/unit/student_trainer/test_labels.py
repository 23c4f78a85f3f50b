"""Answers of several teachers as labels of one shard."""

from __future__ import annotations

import numpy as np

from student_trainer.labels import join_labels
from student_trainer.types import TeacherLabels


def labels(positions: list[int], **changes: object) -> TeacherLabels:
    """Labels whose every number tells the position it is of."""
    at = np.array(positions, np.int64)
    values = {
        "ids_QK": np.stack([at, at + 100], 1).astype(np.int32),
        "log_probs_QK": -np.stack([at, at + 1], 1).astype(np.float32),
        "tail_log_mass_Q": -at.astype(np.float32),
        "token_log_probs_Q": -at.astype(np.float32) / 2,
    }
    return TeacherLabels(at, **(values | changes))  # type: ignore[arg-type]


def test_joined_labels_lie_in_the_order_of_their_positions():
    whole = labels([0, 1, 2, 5, 6, 9])
    joined = join_labels([labels([2, 5]), labels([0, 6, 9]), labels([1])])
    for name, value in vars(whole).items():
        if value is None:
            assert getattr(joined, name) is None
            continue
        np.testing.assert_array_equal(getattr(joined, name), value)
        assert getattr(joined, name).dtype == value.dtype


def test_what_is_not_kept_stays_away():
    parts = [labels([p], token_log_probs_Q=None) for p in (1, 0)]
    assert join_labels(parts).token_log_probs_Q is None


def test_labels_of_one_are_themselves():
    one = labels([3, 4])
    assert join_labels([one]) is one
