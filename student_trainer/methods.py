"""The methods as a table, and which payload can feed which loss (docs/algorithm.md).

A method says three things: what the data rows' targets are, whether the student replaces some of
them by its own text, and what is learnt at each position. Everything else follows from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Method = Literal[
    "vanilla",
    "word-kd",
    "seqkd",
    "seqkd-full",
    "seqinter",
    "imitkd",
    "imitkd-full",
    "imitkd-star",
    "imitkd-star-full",
    "gkd",
    "aggregation",
    "replay",
]
Divergence = Literal[
    "forward-kl", "reverse-kl", "jsd", "skew-kl", "reverse-skew-kl", "tvd", "policy-gradient"
]
Payload = Literal["argmax", "top-k", "candidates", "hidden", "full"]


@dataclass(frozen=True)
class MethodSpec:
    """One method.

    Attributes:
        data: targets of the rows that keep theirs: the ``reference``; the ``teacher``'s best
            hypothesis; or, of its hypotheses, the one ``closest`` to the reference.
        mixed: whether the student replaces rows by its own text, with probability 1 - beta.
        label: learnt at each position: the ``token`` of the target; the teacher's ``argmax`` where
            the student wrote, the token elsewhere; or the teacher's ``distribution`` everywhere.
        pool: student rows outlive their batch: each batch's are drawn from all of them
            (``aggregation``), or some are drawn in place of new ones (``replay``).
        any_divergence: whether ``loss.divergence`` may be chosen.
        scheduled: whether the student's share of the rows may follow ``mixing.schedule``.
        finished_student: whether it goes on from a student trained before.
    """

    data: Literal["reference", "teacher", "closest"]
    mixed: bool
    label: Literal["token", "argmax", "distribution"]
    pool: Literal["aggregation", "replay"] | None = None
    any_divergence: bool = False
    scheduled: bool = True
    finished_student: bool = False


METHODS: Mapping[str, MethodSpec] = {
    "vanilla": MethodSpec("reference", False, "token"),
    "word-kd": MethodSpec("reference", False, "distribution"),
    "seqkd": MethodSpec("teacher", False, "token"),
    "seqkd-full": MethodSpec("teacher", False, "distribution"),
    "seqinter": MethodSpec("closest", False, "token", finished_student=True),
    "imitkd": MethodSpec("reference", True, "argmax"),
    "imitkd-full": MethodSpec("reference", True, "distribution"),
    "imitkd-star": MethodSpec("teacher", True, "argmax"),
    "imitkd-star-full": MethodSpec("teacher", True, "distribution"),
    "gkd": MethodSpec("reference", True, "distribution", any_divergence=True, scheduled=False),
    "aggregation": MethodSpec("reference", True, "argmax", pool="aggregation"),
    "replay": MethodSpec("reference", True, "distribution", pool="replay", any_divergence=True),
}

UNSCHEDULED = [name for name, spec in METHODS.items() if not spec.scheduled]

# Tell of the whole vocabulary, exactly.
WHOLE: tuple[Payload, ...] = ("hidden", "full")
# The first of each is what is asked for where the configuration names none.
_FEEDS: Mapping[str, tuple[Payload, ...]] = {
    "argmax": ("argmax", "top-k", *WHOLE),
    "forward-kl": ("top-k", *WHOLE),
    "jsd": ("top-k", *WHOLE),
    "skew-kl": ("top-k", *WHOLE),
    "reverse-skew-kl": ("top-k", *WHOLE),
    "tvd": ("top-k", *WHOLE),
    # Infinite wherever the student has mass that the teacher's candidates leave out, so it is
    # compared on the student's own.
    "reverse-kl": ("candidates", *WHOLE),
    # Of the token written, whose log-probability every payload brings.
    "policy-gradient": ("argmax", "top-k", "candidates", *WHOLE),
}


def payloads_for(loss: str) -> tuple[Payload, ...]:
    """The payloads that can feed a loss, a divergence or ``argmax``, the cheapest first."""
    return _FEEDS[loss]


def effective_divergence(divergence: Divergence, jsd_beta: float, skew_alpha: float) -> Divergence:
    """What a divergence is at its end points: JSD at beta 0 and 1, skew at alpha 0."""
    if divergence == "jsd" and jsd_beta in (0.0, 1.0):
        return "reverse-kl" if jsd_beta else "forward-kl"
    if skew_alpha == 0.0 and divergence in ("skew-kl", "reverse-skew-kl"):
        return "forward-kl" if divergence == "skew-kl" else "reverse-kl"
    return divergence
