"""What the teacher is asked for, and its answers as labels of packed positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from student_trainer.config import RunConfig
from student_trainer.types import TeacherLabels
from teacher_service.codec import (
    Argmax,
    ArgmaxSpec,
    Candidates,
    CandidatesSpec,
    Full,
    FullSpec,
    Hidden,
    HiddenSpec,
    PayloadRequest,
    ScoreResult,
    TopK,
    TopKSpec,
)


def asked_payload(config: RunConfig) -> PayloadRequest:
    """What the teacher is asked for about each position."""
    if config.payload == "top-k":
        return TopKSpec(config.loss.top_k)
    fixed: dict[str, PayloadRequest] = {
        "argmax": ArgmaxSpec(),
        "candidates": CandidatesSpec(),
        "hidden": HiddenSpec(),
        "full": FullSpec(),
    }
    return fixed[config.payload]


def labels_of(
    positions: np.ndarray, result: ScoreResult, candidates_QK: np.ndarray | None = None
) -> TeacherLabels:
    """A reply as labels.

    Args:
        positions: int64 ``[Q]``, which packed positions were asked about.
        candidates_QK: the ids that were asked about, under payload CANDIDATES.

    Raises:
        ValueError: the teacher scored another number of positions.
    """
    count = len(result.token_log_probs_P)
    ids, log_probs, tail, states = _parts(result, candidates_QK)
    if not len(positions) == len(log_probs) == count:
        raise ValueError(
            f"the teacher scored {min(len(log_probs), count)} positions, {len(positions)} were "
            "asked for"
        )
    return TeacherLabels(
        positions.astype(np.int64),
        ids.astype(np.int32),
        log_probs.astype(np.float32),
        tail.astype(np.float32),
        result.token_log_probs_P.astype(np.float32),
        states,
    )


def join_labels(parts: Sequence[TeacherLabels]) -> TeacherLabels:
    """The labels of several answers as those of one, in the order of the packed positions."""
    if len(parts) == 1:
        return parts[0]
    positions = np.concatenate([part.positions for part in parts])
    order = np.argsort(positions)

    def joined(name: str) -> np.ndarray | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)[order]

    names = [field.name for field in fields(TeacherLabels)]
    return TeacherLabels(**{name: joined(name) for name in names})  # type: ignore[arg-type]


def _parts(
    result: ScoreResult, candidates_QK: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """(ids, log-probs, tail log-mass, states) of a payload; what it has not is empty."""
    payload = result.payload
    if isinstance(payload, TopK):
        return payload.ids_PK, payload.log_probs_PK, payload.tail_log_mass_P, None
    if isinstance(payload, Argmax):
        tail = np.log1p(-np.exp(np.minimum(payload.log_probs_P, -1e-7)))
        return payload.ids_P[:, None], payload.log_probs_P[:, None], tail, None
    if isinstance(payload, Candidates):
        assert candidates_QK is not None
        return candidates_QK, payload.log_probs_PK, payload.tail_log_mass_P, None
    none = np.zeros((len(result.token_log_probs_P), 0), np.float32)
    nothing = np.full(len(none), -np.inf, np.float32)
    if isinstance(payload, Full):
        return none, payload.log_probs_PV, nothing, None
    assert isinstance(payload, Hidden)
    return none, none, nothing, payload.states_PD
