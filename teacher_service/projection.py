"""Distributions recomputed from the states of payload HIDDEN. No torch, no gRPC.

Letters: P packed positions, D width of the decoder, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from teacher_service.errors import TeacherProtocolError

PROJECTION_FILE = "output_projection.safetensors"


@dataclass(frozen=True)
class OutputProjection:
    """What makes a teacher's distributions of its states (``ARTIFACT_KIND_OUTPUT_PROJECTION``).

    Attributes:
        weight_VD, bias_V: float32.
        logit_scale: of ``weight_VD @ state``, not of the bias.
    """

    weight_VD: np.ndarray
    bias_V: np.ndarray
    logit_scale: float

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> OutputProjection:
        """Read what ``client.artifact("output_projection")`` returned.

        Raises:
            TeacherProtocolError: the file or a tensor is missing, broken, or of another shape or
                dtype than the contract says.
        """
        if PROJECTION_FILE not in files:
            raise TeacherProtocolError(f"the artefact lacks the file {PROJECTION_FILE}")
        try:
            tensors = load(files[PROJECTION_FILE])
        except (SafetensorError, KeyError, ValueError) as error:
            raise TeacherProtocolError(f"{PROJECTION_FILE} cannot be read: {error}") from error
        found = {name: (t.dtype.name, t.shape) for name, t in tensors.items()}
        size, width = (*found.get("weight", ("", ()))[1], 0, 0)[:2]
        expected = {"weight": (size, width), "bias": (size,), "logit_scale": ()}
        if found != {name: ("float32", shape) for name, shape in expected.items()}:
            raise TeacherProtocolError(
                f"{PROJECTION_FILE} holds {found}, expected float32 weight [V, D], bias [V] and "
                "logit_scale []"
            )
        return cls(tensors["weight"], tensors["bias"], float(tensors["logit_scale"]))

    def log_probs(self, states_PD: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """``log_softmax((logit_scale * weight @ state + bias) / temperature)``.

        Args:
            states_PD: float32; ``Hidden.states_PD``.
            temperature: any, whatever the request had: states are not tempered.

        Returns:
            ``[P, V]`` float32; one such array and little else is allocated.
        """
        scores_PV = states_PD @ self.weight_VD.T
        scores_PV *= self.logit_scale / temperature
        scores_PV += self.bias_V / temperature
        scores_PV -= scores_PV.max(axis=1, keepdims=True)
        for row_V in scores_PV:  # a row stays in the cache; all exponentials at once would not
            row_V -= np.log(np.exp(row_V).sum())
        return scores_PV
