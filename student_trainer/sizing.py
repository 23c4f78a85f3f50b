"""How many workers, teacher replicas and learners a rate needs: the arithmetic.

Of a batch of J shards one worker writes for G seconds and one replica computes for S, the learner
steps for L. In a pipeline each stage bounds the rate by itself, in batches a second:

    workers    W / G            each writes one shard at a time
    depth      D W / (G + S)    a worker holds at most D shards, those at the teacher included
    replicas   R / S
    learners   1 / (L_K + h)    h passes from one step to the next; L_1 = L
    ahead      (M + lag) / (G / J + S / J + L_K + h)   Little's law: no more batches are under way
    driver     1 / (J d)        it hands out one shard after the other, d seconds each

K learners share a step: L_K = L / K + c. What does not shrink with K is in c: the sum of the
gradients, the optimiser, the rows that the leader sends. Where nobody has measured c it counts as
nothing, and the bound of several learners is too high by that much.

The least of them is an upper bound of the rate: stages that take turns, questions that meet at a
replica, and processes that share a core cost besides. `benchmarks/scaling_model.py` simulates those
and compares with real runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Planned utilisation of workers and replicas: above it queues grow long.
BUSY = 0.8
# Shards that a worker holds at most: one that is written, one that is scored, the next one at hand.
DEPTH = 3
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Stages:
    """Seconds that a batch takes each stage, done by one of it.

    Attributes:
        generate_s, score_s: summed over its shards; ``score_s`` of the teacher's model alone.
        learn_s: of the step, by one learner.
        step_s: h, from the end of a step to the begin of the next.
        shard_s: d, of the driver for a shard.
        share_s: c, of a step that several learners share, beside each one's part.
    """

    generate_s: float
    score_s: float
    learn_s: float
    step_s: float = 0.003
    shard_s: float = 0.003
    share_s: float = 0.0

    def learn_by(self, learners: int) -> float:
        """L_K, seconds of a step that so many take together."""
        if learners == 1:
            return self.learn_s
        return self.learn_s / learners + self.share_s


@dataclass(frozen=True)
class Shape:
    """What of a configuration fixes how much is under way: shards of a batch, M and lag."""

    shards: int
    pool: int
    lag: int


@dataclass(frozen=True)
class Fleet:
    """How many there are of each."""

    workers: int
    replicas: int
    learners: int = 1


@dataclass(frozen=True)
class Need:
    """What a rate needs.

    Attributes:
        rate: batches a second.
        shards, lag: the least that keep all of the fleet at work.
    """

    rate: float
    fleet: Fleet
    shards: int
    lag: int


def bounds(stages: Stages, fleet: Fleet, shape: Shape) -> dict[str, float]:
    """Batches a second that each part allows; infinite where a batch costs it nothing."""
    g, s = stages.generate_s, stages.score_s
    step = stages.learn_by(fleet.learners) + stages.step_s
    seconds = {
        "workers": g / fleet.workers,
        "depth": (g + s) / (DEPTH * fleet.workers),
        "replicas": s / max(1, fleet.replicas),
        "learners": step,
        "ahead": ((g + s) / shape.shards + step) / (shape.pool + shape.lag),
        "driver": shape.shards * stages.shard_s,
    }
    return {part: 1 / time if time else math.inf for part, time in seconds.items()}


def full_rate(stages: Stages) -> float:
    """Batches a second of one learner that never waits."""
    return 1 / (stages.learn_s + stages.step_s)


def need(
    stages: Stages, shape: Shape, rate: float | None = None, sentences: float = math.inf
) -> Need:
    """The fleet for a rate; its workers and replicas are busy ``BUSY`` of the time.

    Args:
        rate: batches a second; None: what one learner makes at full use.
        sentences: of a batch. A learner or shard has one at least.

    Raises:
        ValueError: no fleet makes it: learners or the driver would take longer.
    """
    rate = full_rate(stages) if rate is None else rate
    learners = _learners(stages, rate, sentences)
    both = stages.generate_s + stages.score_s
    workers = max(1, _whole(rate / BUSY * max(stages.generate_s, both / DEPTH)))
    replicas = _whole(rate * stages.score_s / BUSY)
    # All workers find a shard in a pool, unless the driver cannot hand out so many.
    wanted = max(shape.shards, _whole(workers / shape.pool))
    shards = int(min(wanted, sentences, _handed_out(stages, rate)))
    delay = _delay(stages, Fleet(workers, replicas), Shape(shards, shape.pool, 0))
    # And all of the fleet finds one in what is under way besides the learner's batch.
    lag = max(_whole(rate * delay / BUSY), _whole((workers + replicas) / shards))
    return Need(rate, Fleet(workers, replicas, learners), shards, lag)


def _learners(stages: Stages, rate: float, sentences: float) -> int:
    """How many make the rate, each computing for half of a step or more.

    Raises:
        ValueError: there are none.
    """
    if rate * (stages.learn_s + stages.step_s) <= 1 + _ROUNDING:
        return 1
    fixed = stages.step_s + stages.share_s
    most = int(max(1, min(sentences, stages.learn_s / fixed if fixed else math.inf)))
    left = 1 / rate - fixed
    count = _whole(stages.learn_s / left) if left > 0 else math.inf
    if count > most:
        reached = 1 / (stages.learn_by(most) + stages.step_s)
        raise ValueError(
            f"{rate:.3g} batches/s are more than learners can take: {most} of them make "
            f"{reached:.3g}, and more would spend most of a step on what does not shrink with "
            "their number; make batches larger"
        )
    return int(count)


def _handed_out(stages: Stages, rate: float) -> float:
    """Shards of a batch for which the driver has the time at this rate.

    Raises:
        ValueError: not for one.
    """
    most = BUSY / (rate * stages.shard_s) if stages.shard_s else math.inf
    if most < 1:
        raise ValueError(
            f"{rate:.3g} batches/s are more than the driver hands out, {BUSY / stages.shard_s:.3g} "
            "shards a second; make batches larger"
        )
    return most


def _delay(stages: Stages, fleet: Fleet, shape: Shape) -> float:
    """Seconds from the moment that a pool may be written until its first batch is certain to be
    scored: its batches are handed out and written side by side, and their questions come in bursts.

    Clients do not see each other's questions, so these fall to replicas as by lot: with n a replica
    on average the fullest one gets about n + sqrt(2 n ln R).
    """
    pool = shape.shards * shape.pool
    written = math.ceil(pool / fleet.workers) * stages.generate_s / shape.shards
    written += pool * stages.shard_s
    if not fleet.replicas:
        return written
    mean = min(pool, fleet.workers) / fleet.replicas
    fullest = mean + math.sqrt(2 * mean * math.log(fleet.replicas))
    return written + max(1.0, fullest) * stages.score_s / shape.shards


def _whole(number: float) -> int:
    """Rounded up, but for what division left behind the last digit."""
    return math.ceil(number - _ROUNDING)
