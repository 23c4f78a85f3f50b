"""Whether what is learnt fits together: method, loss, payload, mixing (docs/algorithm.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from student_trainer.methods import METHODS, WHOLE, payloads_for

if TYPE_CHECKING:
    from student_trainer.config import RunConfig


def check_loss(config: RunConfig) -> None:
    """The method, its loss and the teacher's payload.

    Raises:
        ValueError: they do not fit, or a setting would be ignored; says what does.
    """
    loss = config.loss
    if loss.divergence != "forward-kl" and not config.spec.any_divergence:
        free = [name for name, spec in METHODS.items() if spec.any_divergence]
        raise ValueError(
            f"method {config.method} has a loss of its own; loss.divergence {loss.divergence} "
            f"goes with method {' or '.join(free)} (gkd with mixing.lambda 0 is on data alone)"
        )
    if not config.asks_teacher:
        return
    payloads = payloads_for(config.compared_by)
    if config.payload not in payloads:
        raise ValueError(
            f"loss.payload {config.payload} cannot feed {config.compared_by}; use "
            f"{' or '.join(payloads)}, or leave it out for {payloads[0]}"
        )
    if config.payload == "candidates" and loss.tail == "renormalised":
        raise ValueError(
            "loss.tail renormalised spreads the teacher's whole mass over its own candidates, and "
            "loss.payload candidates are the student's, where the teacher may have next to none; "
            "use loss.tail=bucket"
        )
    if config.compared_by == "policy-gradient":
        _check_sampled(config)
    if config.spec.pool is not None:
        _check_pooled(config)
    _check_temperatures(config)


def check_mixing(config: RunConfig) -> None:
    """A method without a schedule is given none.

    Raises:
        ValueError: it is; says what to do.
    """
    if config.mixing.schedule is not None and not config.spec.scheduled:
        raise ValueError(
            f"method {config.method} has the student write the share mixing.lambda of the rows "
            f"throughout (0.5 where it is left out), and mixing.schedule {config.mixing.schedule} "
            "would go unused; set mixing.schedule=null"
        )


def _check_sampled(config: RunConfig) -> None:
    """The policy gradient is the reverse KL's on average over the student's own samples."""
    rollout = config.rollout
    if (rollout.decoding, rollout.top_k, rollout.temperature) != ("sample", 0, 1.0):
        raise ValueError(
            "loss.divergence policy-gradient learns from what the student samples; set "
            "rollout.decoding=sample, rollout.top_k=0 and rollout.temperature=1"
        )
    if config.spec.pool is not None:
        raise ValueError(
            f"loss.divergence policy-gradient takes fresh samples alone, and method "
            f"{config.method} keeps older ones; use method gkd"
        )


def _check_pooled(config: RunConfig) -> None:
    """A pool is bounded by its rows, so what it keeps of each position has to be small."""
    if config.payload in WHOLE:
        small = [name for name in payloads_for(config.compared_by) if name not in WHOLE]
        raise ValueError(
            f"method {config.method} keeps rows with what the teacher said of them, and "
            f"loss.payload {config.payload} is too large to keep; use {' or '.join(small)}, or "
            f"leave it out for {small[0]}"
        )


def _check_temperatures(config: RunConfig) -> None:
    """Temperatures are of distributions that are compared, of nothing else."""
    loss, compared = config.loss, config.compared_by
    if loss.student_temperature != 1.0 and compared in ("argmax", "policy-gradient"):
        what = "the teacher's arg-max" if compared == "argmax" else "the tokens that were sampled"
        raise ValueError(
            f"loss.student_temperature {loss.student_temperature:g} is of a distribution that is "
            f"compared with the teacher's, and the student learns {what} here; leave it out"
        )
    if loss.temperature == 1.0:
        return
    if compared == "policy-gradient":
        raise ValueError(
            f"loss.temperature {loss.temperature:g} would set the teacher's tempered probabilities "
            "against the student's own under loss.divergence policy-gradient; leave it out"
        )
    if config.spec.pool == "aggregation":
        raise ValueError(
            f"loss.temperature {loss.temperature:g} would change the probabilities that "
            "pool.confidence is compared with, and no arg-max; leave it out under method "
            f"{config.method}"
        )
