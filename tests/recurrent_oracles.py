"""Recurrent cells by their published equations, one vector at a time, in float64.

``weights`` are a cell's own, by name. ``memory`` in the order of the equations: c for SSRU, SRU and
LSTM, h for GRU and LSTM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Vectors = Sequence[np.ndarray]
Weights = Mapping[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def ssru(x: Vectors, weights: Weights) -> list[np.ndarray]:
    """Kim et al. 2019, section 3.1: no recurrent matrix, no reset gate, relu for tanh."""
    d = len(weights["forget_bias"])
    w, w_f = weights["packed.weight"][:d], weights["packed.weight"][d:]
    c, said = np.zeros(d), []
    for x_t in x:
        f = sigmoid(w_f @ x_t + weights["forget_bias"])
        c = f * c + (1 - f) * (w @ x_t)
        said.append(np.maximum(0, c))
    return said


def sru(x: Vectors, weights: Weights, carried: Sequence[int] | None = None) -> list[np.ndarray]:
    """Lei et al. 2018, equations (1) to (4), with the scaling correction of section 3.2.

    ``carried``: places in x of what the highway carries; empty where a product is. By default all
    of x, or a product where x is of another width than c.
    """
    d = weights["bias"].shape[1]
    whole = weights["packed.weight"] @ weights.get("projection.weight", np.eye(len(x[0])))
    w, w_f, w_r = (whole[i * d : (i + 1) * d] for i in range(3))
    highway = whole[3 * d :]
    if carried is None:
        carried = range(d if len(x[0]) == d else 0)
    assert len(highway) + len(carried) == d
    (v_f, v_r), (b_f, b_r) = weights["feedback"], weights["bias"]
    alpha = math.sqrt(1 + math.exp(0) * 2)
    c, said = np.zeros(d), []
    for x_t in x:
        f = sigmoid(w_f @ x_t + v_f * c + b_f)
        r = sigmoid(w_r @ x_t + v_r * c + b_r)
        c = f * c + (1 - f) * (w @ x_t)
        skipped = x_t[list(carried)] if len(carried) else highway @ x_t
        said.append(r * c + (1 - r) * skipped * alpha)
    return said


def _gates(x_t: np.ndarray, h: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    from_x = weights["kernel.weight_ih_l0"] @ x_t + weights["kernel.bias_ih_l0"]
    from_h = weights["kernel.weight_hh_l0"] @ h + weights["kernel.bias_hh_l0"]
    return from_x, from_h


def gru(x: Vectors, weights: Weights) -> list[np.ndarray]:
    """Cho et al. 2014, the reset gate behind the recurrent product as torch has it."""
    d = weights["kernel.weight_hh_l0"].shape[1]
    h, said = np.zeros(d), []
    for x_t in x:
        from_x, from_h = _gates(x_t, h, weights)
        r = sigmoid(from_x[:d] + from_h[:d])
        z = sigmoid(from_x[d : 2 * d] + from_h[d : 2 * d])
        h = (1 - z) * np.tanh(from_x[2 * d :] + r * from_h[2 * d :]) + z * h
        said.append(h)
    return said


def lstm(x: Vectors, weights: Weights) -> list[np.ndarray]:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    d = weights["kernel.weight_hh_l0"].shape[1]
    h, c, said = np.zeros(d), np.zeros(d), []
    for x_t in x:
        i, f, g, o = np.split(sum(_gates(x_t, h, weights)), 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        said.append(h)
    return said


CELLS = {"ssru": ssru, "sru": sru, "gru": gru, "lstm": lstm}
