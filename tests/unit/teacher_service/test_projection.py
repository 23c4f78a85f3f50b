"""Distributions from states, against a float64 oracle, and files that are no projection."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from teacher_service.errors import TeacherProtocolError
from teacher_service.projection import PROJECTION_FILE, OutputProjection

V, D = 11, 5
DRAW = np.random.default_rng(0)
TENSORS = {
    "weight": DRAW.standard_normal((V, D)).astype("f4") * 3,
    "bias": DRAW.standard_normal(V).astype("f4"),
    "logit_scale": np.array(0.25, "f4"),
}


def files(**change) -> dict[str, bytes]:
    tensors = {n: t for n, t in (TENSORS | change).items() if t is not None}
    return {PROJECTION_FILE: save(tensors)}


def slow(states: np.ndarray, temperature: float) -> np.ndarray:
    """The contract's formula, in float64."""
    weight, bias, scale = (TENSORS[n].astype(float) for n in ("weight", "bias", "logit_scale"))
    logits = (scale * (states.astype(float) @ weight.T) + bias) / temperature
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_log_probs_are_those_of_the_contract(temperature):
    states = DRAW.standard_normal((7, D)).astype("f4") * 10
    kept = states.copy()
    found = OutputProjection.of(files()).log_probs(states, temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(states, temperature), atol=2e-5)
    assert (states == kept).all()


def test_large_logits_do_not_overflow_and_no_states_give_no_rows():
    projection = OutputProjection.of(files())
    found = projection.log_probs(np.full((1, D), 1e4, "f4"))
    assert np.isfinite(found).all()
    assert projection.log_probs(np.zeros((0, D), "f4")).shape == (0, V)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"other": b""},
        {PROJECTION_FILE: b""},
        {PROJECTION_FILE: b"\xff" * 100},
        {PROJECTION_FILE: files()[PROJECTION_FILE][:-1]},
        files(bias=None),
        files(more=TENSORS["bias"]),
        files(bias=TENSORS["bias"][:-1].copy()),
        files(weight=TENSORS["weight"][0]),
        files(logit_scale=np.ones(1, "f4")),
        files(weight=TENSORS["weight"].astype("f2")),
        files(bias=TENSORS["bias"].astype("f8")),
    ],
)
def test_files_that_are_no_projection_are_refused(given):
    with pytest.raises(TeacherProtocolError, match=PROJECTION_FILE):
        OutputProjection.of(given)
