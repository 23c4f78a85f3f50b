"""What a rate needs: workers, teacher replicas and learners, from the times of real steps."""

from __future__ import annotations

from dataclasses import asdict

from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, ok, warning
from student_trainer.config import RunConfig
from student_trainer.sizing import Fleet, Shape, bounds, full_rate, need

_PARTS = {
    "workers": "generation",
    "depth": "shards waiting for the teacher",
    "replicas": "the teacher",
    "learners": "the learner",
    "ahead": "how far workers may run ahead",
    "driver": "the driver",
}


def sizing(it: Examination) -> list[Finding]:
    """Numbers for a learner at full use, or for the rate asked for; see docs/deployment.md."""
    it.need("duration")
    config, rate, batch = it.config, None, it.sentences_a_batch
    if it.target_rate is not None:
        rate = it.target_rate / batch
    shape = shape_of(config)
    asked = rate or full_rate(it.stages)
    told = f"{asked * batch:.3g} sentences/s ({_what(it)})"
    try:
        wanted = need(it.stages, shape, rate, batch)
    except ValueError as fault:
        return [warning(f"{told}: {fault}", "raise batch.sentences or batch.tokens")]
    learners = _count(wanted.fleet.learners, "learner")
    if wanted.fleet.learners > 1:
        learners += " (at least: the sum of their gradients is not counted)"
    finding = ok(
        f"for {told}: workers={wanted.fleet.workers}, {_count(wanted.fleet.replicas, 'replica')} "
        f"of the teacher, {learners}, "
        f"batch.shards={wanted.shards}, rollout.lag={wanted.lag} or more",
        sentences_per_s=wanted.rate * batch,
        workers=wanted.fleet.workers,
        replicas=wanted.fleet.replicas,
        learners=wanted.fleet.learners,
        shards=wanted.shards,
        lag=wanted.lag,
        sentences_a_batch=batch,
        **asdict(it.stages),
    )
    # In one process stages take turns: there is nothing to be compared.
    return [finding] if config.runtime == "inline" else [finding, _as_configured(it, shape)]


def shape_of(config: RunConfig) -> Shape:
    """What the configuration says of how much is under way."""
    return Shape(config.batch.shards, config.rollout.pool, config.rollout.lag)


def _as_configured(it: Examination, shape: Shape) -> Finding:
    config = it.config
    # One teacher may serve several corpora.
    replicas = len({r.address for met in it.met for r in met.reports}) if it.scores else 1
    fleet = Fleet(config.workers, max(1, replicas), config.learner_processes)
    found = bounds(it.stages, fleet, shape)
    part = min(found, key=lambda name: found[name])
    rate = found[part] * it.sentences_a_batch
    return ok(
        f"as configured, workers={config.workers} and {_count(fleet.replicas, 'replica')}, each "
        f"with cores of its own: at most {rate:.3g} sentences/s, bound by {_PARTS[part]}",
        sentences_per_s=rate,
        bound=part,
    )


def _what(it: Examination) -> str:
    return "as asked for" if it.target_rate is not None else "one learner at full use"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
