"""Schedules of beta, coin flips and versions, against the paper's formulas (Lin et al. 2020)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from student_trainer.config import MixingConfig
from student_trainer.mixing import beta, keeps_reference, version_for
from tests import oracles

N = 40


@pytest.mark.parametrize(
    "values",
    [{"schedule": "cosine"}, {"base": 0.5}, {"final": 1.1}, {"value": -0.1}, {"warmup": 1.0}],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MixingConfig(**values)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"lambda": 0.5, "schedule": "linear"}, r"schedule linear would .* one of them to null"),
        ({"lambda": 0.0, "schedule": "constant"}, r"schedule constant would go unused"),
        ({"lambda": 0.5, "warmup": 0.1}, r"warmup 0.1 would .* it to 0 or lambda to null"),
    ],
)
def test_a_schedule_or_a_lambda(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        MixingConfig(**values)


def test_what_mixes_where_little_is_said() -> None:
    assert MixingConfig().schedule == "exponential"
    assert MixingConfig(**{"schedule": None, "lambda": None}) == MixingConfig()
    found = MixingConfig(**{"schedule": None, "lambda": 0.25})
    assert {beta(found, t, N) for t in range(N + 1)} == {0.75}
    again = MixingConfig(**found.model_dump(by_alias=True))
    assert again == found and again.schedule is None


@pytest.mark.parametrize("schedule", ["exponential", "linear", "reverse-sigmoid"])
@pytest.mark.parametrize(("base", "final"), [(200.0, 0.005), (2.0, 0.5), (10.0, 0.1)])
def test_schedules(schedule: Any, base: float, final: float) -> None:
    config = MixingConfig(schedule=schedule, base=base, final=final)
    for t in range(N + 1):
        expected = oracles.beta(schedule, t, N, base=base, final=final)
        assert beta(config, t, N) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        ("exponential", 1.0, 0.005),
        ("linear", 1.0, 0.005),
        ("reverse-sigmoid", 0.9999546, 0.0000454),
        ("constant", 0.3, 0.3),
    ],
)
def test_end_points(schedule: Any, first: float, last: float) -> None:
    config = MixingConfig(schedule=schedule, base=200.0, final=0.005, value=0.3)
    assert beta(config, 0, N) == pytest.approx(first, rel=1e-5)
    assert beta(config, N, N) == pytest.approx(last, rel=1e-3)
    assert beta(config, 0, 1) == pytest.approx(first, rel=1e-5)


def test_reverse_sigmoid_is_a_half_at_half_time() -> None:
    assert beta(MixingConfig(schedule="reverse-sigmoid"), N // 2, N) == 0.5


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_constant(value: float) -> None:
    config = MixingConfig(schedule="constant", value=value)
    assert {beta(config, t, N) for t in range(N + 1)} == {value}


@pytest.mark.parametrize("schedule", ["exponential", "linear", "reverse-sigmoid"])
def test_after_the_warm_up_the_schedule_runs_over_the_rest(schedule: Any) -> None:
    config = MixingConfig(schedule=schedule, warmup=0.25)
    assert [beta(config, t, N) for t in range(10)] == [1.0] * 10
    for t in range(10, N + 1):
        expected = oracles.beta(schedule, t - 10, N - 10)
        assert beta(config, t, N) == pytest.approx(expected, rel=1e-12)


def test_constant_after_the_warm_up() -> None:
    config = MixingConfig(schedule="constant", value=0.3, warmup=0.25)
    assert [beta(config, t, N) for t in (0, 9, 10, N)] == [1.0, 1.0, 0.3, 0.3]


@pytest.mark.parametrize("schedule", ["exponential", "linear", "reverse-sigmoid"])
def test_beta_falls(schedule: Any) -> None:
    values = [beta(MixingConfig(schedule=schedule), t, N) for t in range(N + 1)]
    assert all(a > b for a, b in itertools.pairwise(values))


# --------------------------------------------------------------------------------------- coin flips


def test_coins_at_the_ends_are_certain() -> None:
    rows = np.arange(3000)
    assert keeps_reference(1, 0, rows, 1.0).all()
    assert not keeps_reference(1, 0, rows, 0.0).any()


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.8])
def test_coins_fall_at_the_rate(probability: float) -> None:
    kept = keeps_reference(1, 4, np.arange(20_000), probability)
    assert kept.dtype == bool
    spread = (probability * (1 - probability) / 20_000) ** 0.5
    assert abs(kept.mean() - probability) < 4 * spread


def test_a_coin_is_a_function_of_seed_batch_and_row() -> None:
    rows = np.arange(500)
    kept = keeps_reference(1, 4, rows, 0.5)
    order = np.random.default_rng(0).permutation(500)
    assert (keeps_reference(1, 4, rows[order], 0.5) == kept[order]).all()
    assert (keeps_reference(1, 4, rows[7:9], 0.5) == kept[7:9]).all()
    for other in (keeps_reference(2, 4, rows, 0.5), keeps_reference(1, 5, rows, 0.5)):
        assert 0.4 < (other == kept).mean() < 0.6


def test_a_row_once_kept_stays_kept_under_a_larger_beta() -> None:
    rows = np.arange(500)
    low, high = keeps_reference(1, 4, rows, 0.3), keeps_reference(1, 4, rows, 0.6)
    assert (high >= low).all() and high.sum() > low.sum()


# ----------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("pool", "lag", "expected"),
    [
        (1, 0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (1, 2, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (4, 0, [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]),
        (4, 4, [0, 0, 0, 0, 0, 0, 0, 0, 4, 4]),
        (4, 1, [0, 0, 0, 0, 3, 3, 3, 3, 7, 7]),
        (3, 7, [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
    ],
)
def test_the_version_that_writes_a_batch(pool: int, lag: int, expected: list[int]) -> None:
    assert [version_for(i, pool, lag) for i in range(10)] == expected
