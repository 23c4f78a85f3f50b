"""Which stage bounds a run, by how much, and what to add.

A stage's utilisation is the share of the wall time in which it was busy: all workers writing, the
teacher's model computing (as it says itself), the learner stepping. In a pipeline the one near 1
bounds it. Where none is, stages wait for each other, or for the machine's cores. In one process
they take turns, and the longest is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from student_trainer.config import RunConfig
from student_trainer.types import StepReport

# A stage this busy has no more to give: the rest is hand-over between processes.
BOUND = 0.8
_BUSY_CORES = 0.9


@dataclass
class StageTimes:
    """Seconds, summed over steps.

    Attributes:
        wall_s: of the loop, without validation and checkpoints.
        generate_s, score_s: over all workers; ``score_s`` is from question to answer.
        teacher_s: of the teacher's forward passes.
        learn_s: of the learner's steps.
        worker_s: of all workers that were there, busy or not; 0: as many as the configuration says,
            all the time.
    """

    wall_s: float = 0.0
    generate_s: float = 0.0
    score_s: float = 0.0
    teacher_s: float = 0.0
    learn_s: float = 0.0
    worker_s: float = 0.0

    def add(self, report: StepReport, wall_s: float) -> None:
        """Take in a step."""
        self.wall_s += wall_s
        self.generate_s += report.generate_s
        self.score_s += report.score_s
        self.teacher_s += report.teacher_s
        self.learn_s += report.learn_s
        self.worker_s += report.workers * wall_s

    @classmethod
    def of_totals(cls, totals: Mapping[str, float]) -> StageTimes:
        """From the sums of ``RunDirectory.totals``."""
        return cls(
            wall_s=totals["step_seconds"],
            generate_s=totals["generate_seconds"],
            score_s=totals["score_seconds"],
            teacher_s=totals["teacher_seconds"],
            learn_s=totals["learn_seconds"],
            worker_s=totals["worker_seconds"],
        )


@dataclass(frozen=True)
class Verdict:
    """What bounds a run.

    Attributes:
        stage: ``generate``, ``score`` or ``learn``; ``waiting`` where none of them is busy,
            ``cores`` where this machine's are.
        utilisation: of the busiest stage.
        stages: utilisation of each.
        advice: one line for people.
    """

    stage: str
    utilisation: float
    advice: str
    stages: dict[str, float] = field(default_factory=dict)


def judge(times: StageTimes, config: RunConfig, load: float | None = None) -> Verdict:
    """Name the bound stage.

    Args:
        load: runnable processes per core of this machine; by default the last minute's.
    """
    if config.runtime == "inline":
        return _in_turn(times)
    load = _load() if load is None else load
    wall = max(times.wall_s, 1e-9)
    there = times.worker_s or config.workers * wall
    count = _counts(config, max(1, round(there / wall)))
    # Scores read from a store are computed by nobody: reading them is the workers' time.
    scoring = times.teacher_s if times.teacher_s else times.score_s
    stages = {
        "generate": min(1.0, times.generate_s / there),
        "score": min(1.0, scoring / wall / count["score"]),
        "learn": min(1.0, times.learn_s / wall),
    }
    busiest = max(stages, key=lambda stage: stages[stage])
    told = ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items())
    if stages[busiest] >= BOUND:
        advice = f"{_advice(busiest, stages, count)} (busy: {told})"
        return Verdict(busiest, stages[busiest], advice, stages)
    if load >= _BUSY_CORES:
        advice = (
            f"bound by this machine: its {os.cpu_count()} cores are busy while no stage is at its "
            f"limit ({told}); add cores, or serve the teacher elsewhere"
        )
        return Verdict("cores", stages[busiest], advice, stages)
    advice = (
        f"stages wait for each other (busy: {told}); raise rollout.lag (now {config.rollout.lag}) "
        "so that more batches are under way, or batch.shards so that more workers share one"
    )
    return Verdict("waiting", stages[busiest], advice, stages)


def _in_turn(times: StageTimes) -> Verdict:
    wall = max(times.wall_s, 1e-9)
    seconds = {"generate": times.generate_s, "score": times.score_s, "learn": times.learn_s}
    stages = {stage: min(1.0, s / wall) for stage, s in seconds.items()}
    longest = max(stages, key=lambda stage: stages[stage])
    told = ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items())
    advice = f"{longest} takes most of the time ({told}); in one process stages take turns"
    gain = sum(seconds.values()) / max(seconds[longest], 1e-9) - 1
    if gain > 0.05:
        advice += f", runtime ray overlaps them: up to {gain:+.0%} with the cores for it"
    return Verdict(longest, stages[longest], advice, stages)


def _counts(config: RunConfig, workers: int) -> dict[str, int]:
    """How many of each stage run side by side."""
    teacher = config.teacher
    replicas = workers
    if teacher is not None and teacher.replicas:
        replicas = teacher.replicas
    return {"generate": workers, "score": replicas, "learn": 1}


def _advice(stage: str, stages: Mapping[str, float], count: Mapping[str, int]) -> str:
    others = max(share for name, share in stages.items() if name != stage)
    more = count[stage] + 1
    gain = stages[stage] / max(stages[stage] * count[stage] / more, others) - 1
    if stage == "score":
        return f"teacher-bound: {more} replicas instead of {count[stage]} ≈ {gain:+.0%}"
    if stage == "generate":
        return f"generation-bound: workers={more} instead of {count[stage]} ≈ {gain:+.0%}"
    gain = stages[stage] / max(others, 1e-9) - 1
    return (
        "learner-bound: a faster device, more learner_threads or learner_processes, at most "
        f"{gain:+.0%} until another stage bounds"
    )


def _load() -> float:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0
