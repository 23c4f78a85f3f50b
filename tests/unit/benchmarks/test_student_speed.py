"""The figure against the teacher in the same engine, by hand."""

from __future__ import annotations

import pytest

from benchmarks.student_speed import _same_engine


def test_an_ensemble_takes_the_time_of_all_its_members() -> None:
    times = {
        "student_int8": [1.0, 2.0, 1.0],
        "teacher_int8": [3.0, 6.0, 3.0],
        "teacher2_int8": [2.0, 4.0, 5.0],
    }
    alone, joined = _same_engine(times, 1), _same_engine(times, 2)
    name = "export_over_teacher_same_engine"
    assert list(alone) == [name, f"{name}_int8"]
    assert alone[name].value == pytest.approx(3.0) and alone[name].goal == ">= 4"
    assert joined[name].value == pytest.approx(5.0)
