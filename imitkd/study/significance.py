"""Bootstrap intervals and paired p-values over sentences (Koehn 2004), for any corpus metric.

N sentences, S statistics a sentence, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Score = Callable[[np.ndarray], float]

_BLOCK = 64


def draws(sentences: int, resamples: int, seed: int) -> np.ndarray:
    """int64 ``[R, N]``: which sentences each resample has; drawn as sacreBLEU draws them."""
    return np.random.default_rng(seed).choice(sentences, size=(resamples, sentences), replace=True)


def resampled(statistics_NS: np.ndarray, score: Score, draws_RN: np.ndarray) -> np.ndarray:
    """float64 ``[R]``: the score of each resample, from its summed statistics."""
    sums = [
        statistics_NS[draws_RN[begin : begin + _BLOCK]].sum(axis=1)
        for begin in range(0, len(draws_RN), _BLOCK)
    ]
    return np.array([score(sum_S) for sum_S in np.concatenate(sums)])


def interval(scores_R: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval."""
    outside = 50.0 * (1.0 - level)
    low, high = np.percentile(scores_R, [outside, 100.0 - outside])
    return float(low), float(high)


def paired_p_value(scores_R: np.ndarray, baseline_R: np.ndarray, difference: float) -> float:
    """How often chance alone makes a difference as large; sacreBLEU's formula.

    1 where the two never differ, which the formula would take for certainty.

    Args:
        scores_R, baseline_R: of two systems on the same resamples.
        difference: of the two on the sentences themselves.
    """
    apart = np.abs(scores_R - baseline_R)
    if not apart.any():
        return 1.0
    chance = apart - apart.mean()
    return float(((chance > abs(difference)).sum() + 1) / (len(chance) + 1))


def mean_over(parts: Sequence[np.ndarray]) -> np.ndarray:
    """float64 ``[R]``: the mean over seeds, resample by resample."""
    return np.mean(np.stack(parts), axis=0)
