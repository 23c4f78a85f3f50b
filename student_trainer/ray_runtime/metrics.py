"""What a run's actors tell Ray, which has it scraped by Prometheus on every node.

Ray adds its own labels (node, worker) and the prefix ``ray_``; counters end in ``_total``. Where
Ray is installed without its extra ``default`` nobody collects them.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from student_trainer.types import ScoredShard, StepReport

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class RunMetrics:
    """Of one actor.

    Args:
        run: the run's name, a label of all.
    """

    def __init__(self, run: str) -> None:
        def counter(name: str, what: str) -> Counter:
            return Counter(f"imitkd_{name}", what, ("run",)).set_default_tags({"run": run})

        self._written = counter("sentences_written", "Sentences the student wrote.")
        self._scored = counter("sentences_scored", "Sentences the teacher scored.")
        self._learnt = counter("sentences_learnt", "Sentences learnt.")
        self._steps = counter("steps", "Optimiser steps.")
        self._seconds = Histogram(
            "imitkd_stage_seconds",
            "Seconds: generate and score of a shard, learn of a step.",
            _SECONDS,
            ("run", "stage"),
        ).set_default_tags({"run": run})
        self._version = Gauge(
            "imitkd_version",
            "Weights this worker wrote with last, or that were published.",
            ("run",),
        ).set_default_tags({"run": run})

    def shard(self, shard: ScoredShard) -> None:
        """A worker wrote and scored one."""
        self._count(self._written, int(shard.from_student.sum()))
        self._count(self._scored, shard.scored_sentences)
        self._stage("generate", shard.generate_s)
        self._stage("score", shard.score_s)
        self._version.set(shard.version)

    def step(self, report: StepReport) -> None:
        """The learner made one."""
        self._count(self._learnt, report.sentences)
        self._steps.inc()
        self._stage("learn", report.learn_s)

    def published(self, version: int) -> None:
        """The learner made its weights a version."""
        self._version.set(version)

    def _count(self, counter: Counter, more: int) -> None:
        if more:  # Ray takes no 0
            counter.inc(more)

    def _stage(self, stage: str, seconds: float) -> None:
        self._seconds.observe(seconds, {"stage": stage})
