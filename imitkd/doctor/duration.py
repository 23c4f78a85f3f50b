"""How long the run will take, from a few real steps in memory that write nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from imitkd.doctor.examination import CannotRun, Examination
from imitkd.doctor.findings import Finding, ok, warning
from imitkd.doctor.machine import cores_of
from seq2seq.checkpoint import check_device
from seq2seq.decoding import LengthLimit
from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.evaluation import evaluate
from student_trainer.mixing import beta
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import make_learner, make_model, make_worker, validation_examples
from student_trainer.sizing import Stages
from student_trainer.types import ShardTask, StepReport

# Places of the run, as shares of it, whose beta is tried out; one step before them warms up.
PLACES = (0.125, 0.375, 0.625, 0.875)
VALIDATED = 32
LONG_DAYS = 14


@dataclass(frozen=True)
class Estimate:
    """Seconds of a run.

    Attributes:
        generate_s, score_s, learn_s: of a step, one stage after the other.
        validation_s: of one validation.
        shortest_s, longest_s: of the whole run: all stages overlapping, and none.
    """

    generate_s: float
    score_s: float
    learn_s: float
    validation_s: float
    shortest_s: float
    longest_s: float

    @property
    def step_s(self) -> float:
        """A step, one stage after the other."""
        return self.generate_s + self.score_s + self.learn_s


def duration(it: Examination) -> list[Finding]:
    """Try a few steps and tell how long all will take."""
    it.need("lengths", "lines", "device")
    if it.scores:
        it.need("answers")
    if it.config.runtime == "ray":
        _need_the_device_here(it.config.device)
    reports = _steps(it)
    found = estimate(it.config, reports, _validation_s(it), cores_of(it))
    it.stages = stages_of(reports)
    it.sentences_a_batch = sum(report.sentences for report in reports) / len(reports)
    facts = {
        "shortest_s": found.shortest_s,
        "longest_s": found.longest_s,
        "generate_s": found.generate_s,
        "score_s": found.score_s,
        "learn_s": found.learn_s,
        "validation_s": found.validation_s,
        "steps_tried": len(reports),
    }
    span = time_of(found.shortest_s)
    if time_of(found.longest_s) != span:
        span += f" to {time_of(found.longest_s)}"
    told = (
        f"about {span} for {it.config.optimiser.steps:,} steps: a step generates "
        f"{found.generate_s:.2g} s, scores {found.score_s:.2g} s, learns {found.learn_s:.2g} s; a "
        f"validation takes {found.validation_s:.2g} s"
    )
    if it.config.initialise is None and it.config.student_writes:
        told += " (an untrained student writes to its length limit: an upper bound)"
    if found.shortest_s > LONG_DAYS * 86400:
        slowest = max(("generate", "score", "learn"), key=lambda s: facts[f"{s}_s"])
        return [warning(told, f"most of it is to {slowest}; see docs/performance.md", **facts)]
    return [ok(told, **facts)]


def _need_the_device_here(device: str) -> None:
    """A learner of a cluster may have a GPU that this machine has not.

    Raises:
        CannotRun: it is so.
    """
    try:
        check_device(device)
    except UserError as fault:
        raise CannotRun(f"cannot run: the learner's {device} is not on this machine") from fault


def _steps(it: Examination) -> list[StepReport]:
    """Reports of real steps at several places of the run, the first (warming up) left out."""
    config = it.config
    teacher = it.teacher if it.scores else None
    worker = make_worker(config, it.vocabulary, it.data, teacher)
    learner = make_learner(config, it.vocabulary, RunDirectory(it.output))
    worker.load(0, learner.publish(0))
    reports: list[StepReport] = []
    end = time.perf_counter() + it.probe_s
    # The learner's schedules end with the run, which may be a short one.
    for place in (PLACES[0], *PLACES)[: config.optimiser.steps]:
        share = beta(config.mixing, int(place * config.optimiser.steps), config.optimiser.steps)
        batch = len(reports)
        # Written by the first weights, whatever the version rule says: time is what is looked at.
        tasks = [ShardTask(batch, shard, 0, share) for shard in range(config.batch.shards)]
        reports.append(learner.step([worker.run(task) for task in tasks]))
        if time.perf_counter() > end and len(reports) > 1:
            break
    return reports[1:] or reports


def _validation_s(it: Examination) -> float:
    """Seconds of one validation, from a part of it."""
    examples = validation_examples(it.config)
    model = make_model(it.config, it.vocabulary).to(it.config.device).eval()
    limit = LengthLimit(**it.config.rollout.limit.model_dump())
    begin = time.perf_counter()
    evaluate(model, it.vocabulary, examples[:VALIDATED], limit=limit)
    return (time.perf_counter() - begin) * len(examples) / min(VALIDATED, len(examples))


def stages_of(reports: list[StepReport]) -> Stages:
    """Mean seconds of a batch in each stage; of the teacher its model's, as far as it tells."""
    asked = [report for report in reports if report.scored_sentences]
    scored = [report.teacher_s or report.score_s for report in asked] or [0.0]
    generated, learnt = ([getattr(r, f"{s}_s") for r in reports] for s in ("generate", "learn"))
    return Stages(*(sum(times) / len(times) for times in (generated, scored, learnt)))


def estimate(
    config: RunConfig, reports: list[StepReport], validation_s: float, cores: int
) -> Estimate:
    """The run's time from the mean of some steps."""
    count = len(reports)
    generate, score, learn = (
        sum(getattr(report, f"{stage}_s") for report in reports) / count
        for stage in ("generate", "score", "learn")
    )
    step = generate + score + learn
    quickest = step
    if config.runtime == "ray":
        ahead = config.rollout.pool + config.rollout.lag
        busy = min(config.workers, config.batch.shards * ahead)
        work = generate * config.worker_threads + learn * config.learner_threads
        shared = learn / config.learner_processes
        quickest = max(shared, max(generate, score) / busy, work / cores)
    steps = config.optimiser.steps
    validations = -(-steps // config.validation.every) * validation_s
    return Estimate(
        generate,
        score,
        learn,
        validation_s,
        shortest_s=min(quickest, step) * steps + validations,
        longest_s=step * steps + validations,
    )


def time_of(seconds: float) -> str:
    """``95`` -> ``1.6 min``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
