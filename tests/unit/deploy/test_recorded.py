"""The demo's recorded figures are found, so that the containers' test cannot pass without them."""

from __future__ import annotations

import pytest

from tests.compose.recorded import student_bleu, teacher_bleu


def test_bands_lie_around_what_the_documentation_says():
    assert student_bleu(600) == pytest.approx((32.3, 36.3))
    assert student_bleu(300) == pytest.approx((30.0, 34.0))
    assert teacher_bleu() == pytest.approx((39.0, 40.0))


def test_a_length_that_nobody_recorded_has_no_band():
    with pytest.raises(AssertionError, match="no student of 450 steps"):
        student_bleu(450)
