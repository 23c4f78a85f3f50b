"""Schedules of beta, the probability that a row keeps its reference (docs/algorithm.md)."""

from __future__ import annotations

import math

import numpy as np

from seq2seq.noise import uniform_array
from student_trainer.config import MixingConfig, RunConfig

_COINS = 0x636F696E
_FRESH = 0x66726573


def beta(config: MixingConfig, step: int, steps: int) -> float:
    """beta at step t of N.

    exponential ``base ** (-t / N)``; linear ``1 - (1 - final) t / N``; reverse sigmoid
    ``1 / (1 + exp(20 (t / N - 0.5)))``; constant. During the warm-up share it is 1, and the
    schedule runs over what is left. Where there is a lambda it is 1 - lambda throughout.
    """
    if config.lambda_ is not None:
        return 1.0 - config.lambda_
    warmup = config.warmup * steps
    if step < warmup:
        return 1.0
    progress = (step - warmup) / (steps - warmup)
    if config.schedule == "exponential":
        return config.base**-progress
    if config.schedule == "linear":
        return 1.0 - (1.0 - config.final) * progress
    if config.schedule == "reverse-sigmoid":
        return 1.0 / (1.0 + math.exp(20.0 * (progress - 0.5)))
    return config.value


def keeps_reference(seed: int, batch: int, rows: np.ndarray, probability: float) -> np.ndarray:
    """bool ``[B]``: one Bernoulli draw a sentence, a function of (seed, batch, row) alone."""
    return uniform_array(seed ^ _COINS, batch, rows) < probability


def is_fresh(config: RunConfig, batch: int, rows: np.ndarray) -> np.ndarray:
    """bool ``[B]``: which of the student's rows it writes anew, the others being replayed.

    The share rises linearly from ``pool.fresh`` at the first batch to 1 at the last.
    """
    progress = batch / max(1, config.optimiser.steps - 1)
    share = config.pool.fresh + (1.0 - config.pool.fresh) * progress
    return uniform_array(config.seed ^ _FRESH, batch, rows) < share


def version_for(batch: int, pool: int, lag: int) -> int:
    """The weights that write batch i: ``max(0, pool * floor(i / pool) - lag)`` optimiser steps."""
    return max(0, pool * (batch // pool) - lag)
