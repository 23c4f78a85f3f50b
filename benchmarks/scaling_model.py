"""How many workers and replicas a rate needs: a simulation, and real runs that it must foretell.

The trainer's own actors, pool, driver and clients run over stages that sleep for fixed times and
over one or two replicas of the real teacher service whose model sleeps; the simulation
(``pipeline_simulation``) is given the same times. What passes between the stages (from a step to
the next, of a question beside the model's time, of the driver for a shard) is measured in runs of
its own, not in those compared.

``scaling_real``, which this calls at its end, compares with runs whose stages are real and whose
times the doctor measured.

- ``worst_error``: the largest |foretold / measured - 1| of the rates of all runs;
- ``mean_error``: their mean;
- ``arithmetic_worst_error``: the same of the least of the bounds of ``student_trainer/sizing.py``;
- ``needed_rate_worst``: with the fleet that ``sizing.need`` names, the simulated rate over the one
  asked for, the worst of fleets from one worker to thousands.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import scaling_real
from benchmarks import sleeping_stages as sleeping
from benchmarks.form import Figure, Result, run
from benchmarks.pipeline_simulation import Plan, simulate
from benchmarks.sleeping_service import sleeping_replicas
from seq2seq.vocabulary import EOS_ID
from student_trainer.ray_runtime import cluster
from student_trainer.sizing import Fleet, Shape, Stages, bounds, need
from teacher_service.client import TeacherClient
from teacher_service.codec import TopKSpec

_ROWS = 4  # sentences of a shard in ``sleeping_stages``
# Which replica a worker asks first is drawn by lot, and which questions meet there depends on it.
_SEEDS = 20
SHAPE = Shape(shards=4, pool=4, lag=4)


@dataclass(frozen=True)
class Case:
    """A run that is measured: seconds of a shard to write and to score, of a batch to learn."""

    write_s: float
    score_s: float
    learn_s: float
    workers: int
    replicas: int
    shape: Shape = SHAPE

    @property
    def stages(self) -> Stages:
        """Without what passes between them."""
        shards = self.shape.shards
        return Stages(self.write_s * shards, self.score_s * shards, self.learn_s)


def _cases() -> list[Case]:
    """Workers bound, the teacher, the learner, and versions that are waited for."""
    cases = [Case(0.2, 0.06, 0.04, workers, 1) for workers in (1, 2, 4)]
    cases += [Case(0.1, 0.1, 0.04, workers, replicas) for workers in (2, 4) for replicas in (1, 2)]
    cases += [Case(0.04, 0.03, 0.3, 2, 1)]
    cases += [Case(0.1, 0.05, 0.2, 4, 2, Shape(4, pool, lag)) for pool, lag in ((1, 0), (4, 0))]
    return cases


def measure(quick: bool) -> Result:
    """Calibrate, run and foretell every case, and size fleets that no machine here can run."""
    cases, steps = (_cases()[::4], 12) if quick else (_cases(), 32)
    with tempfile.TemporaryDirectory() as folder:
        connection = cluster.connect(256 << 20, cpus=2)
        try:
            between = _calibrated(Path(folder), 30 if quick else 120)
            measured = [
                _run(case, Path(folder) / str(place), steps) for place, case in enumerate(cases)
            ]
        finally:
            connection.close()
    rows = [_row(case, rate, between, steps) for case, rate in zip(cases, measured, strict=True)]
    sized = [_sized(workers, between) for workers in (1, 8, 64, 512, 4096)]
    errors = [abs(row["simulated_over_measured"] - 1) for row in rows]
    plain = [abs(row["arithmetic_over_measured"] - 1) for row in rows]
    real = scaling_real.measure(quick)
    return Result(
        {
            "worst_error": Figure(max(errors), "share", "<= 0.1"),
            "mean_error": Figure(statistics.mean(errors), "share"),
            "arithmetic_worst_error": Figure(max(plain), "share"),
            "needed_rate_worst": Figure(min(s["simulated_over_asked"] for s in sized), "ratio"),
        }
        | real.figures,
        {"between": between, "runs": rows, "sized": sized} | real.detail,
    )


def _calibrated(folder: Path, steps: int) -> dict[str, float]:
    """Seconds that pass between: stages that take no time, with one and with sixteen shards."""
    per_batch = {}
    for shards in (1, 16):
        case = Case(0.0, 0.0, 0.0, 2, 1, replace(SHAPE, shards=shards))
        per_batch[shards] = 1 / _run(case, folder / f"between-{shards}", steps)
    shard_s = max(0.0, (per_batch[16] - per_batch[1]) / 15)
    step_s = max(0.0, per_batch[1] - shard_s)
    return {"shard_s": shard_s, "step_s": step_s, "answer_s": _answer_s(folder / "answer")}


def _answer_s(folder: Path, questions: int = 50) -> float:
    """Median of a question about one shard where the model takes no time."""
    folder.mkdir()
    rows = [[*range(10, 25), EOS_ID]] * _ROWS
    seconds = []
    with sleeping_replicas(1, 0.0, folder) as addresses, TeacherClient(addresses) as client:
        for _ in range(questions):
            begin = time.perf_counter()
            client.score(rows, rows, TopKSpec(64))
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _run(case: Case, folder: Path, steps: int) -> float:
    """Batches a second of the trainer itself, its first quarter left out."""
    folder.mkdir(parents=True)
    with sleeping_replicas(case.replicas, case.score_s / _ROWS, folder) as addresses:
        stages = sleeping.Stages(
            case.write_s, case.score_s, case.learn_s, teachers=",".join(addresses)
        )
        config = sleeping.config_of(
            stages,
            steps,
            workers=case.workers,
            shards=case.shape.shards,
            pool=case.shape.pool,
            lag=case.shape.lag,
        )
        return sleeping.drive(config, folder / "run").steps_per_s(steps // 4)


def _row(case: Case, measured: float, between: dict[str, float], steps: int) -> dict[str, Any]:
    stages = replace(case.stages, step_s=between["step_s"], shard_s=between["shard_s"])
    fleet = Fleet(case.workers, case.replicas)
    plan = Plan(stages, fleet, case.shape, answer_s=between["answer_s"])
    drawn = [simulate(plan, steps, seed) for seed in range(_SEEDS)]
    rate = statistics.mean(found.rate for found in drawn)
    allowed = bounds(stages, fleet, case.shape)
    bound = min(allowed, key=lambda part: allowed[part])
    return asdict(case) | {
        "measured": measured,
        "simulated": rate,
        "simulated_range": [min(d.rate for d in drawn), max(d.rate for d in drawn)],
        "simulated_over_measured": rate / measured,
        "bound": bound,
        "arithmetic": allowed[bound],
        "arithmetic_over_measured": allowed[bound] / measured,
    }


def _sized(workers: int, between: dict[str, float]) -> dict[str, Any]:
    """A learner whose batches take about so many workers, and grow with them; times spread."""
    learn_s = 0.5 * max(1.0, workers / 256)
    write_s = workers * learn_s * 0.8
    shape = Shape(4, 4, 0)
    stages = Stages(write_s, write_s / 4, learn_s, between["step_s"], between["shard_s"])
    wanted = need(stages, shape)
    shape = Shape(wanted.shards, shape.pool, wanted.lag)
    found = simulate(Plan(stages, wanted.fleet, shape, between["answer_s"], spread=0.3), 80)
    return {
        "fleet": asdict(wanted.fleet),
        "shape": asdict(shape),
        "asked": wanted.rate,
        "simulated": found.rate,
        "simulated_over_asked": found.rate / wanted.rate,
        "busy": {"generate": found.generate, "score": found.score, "learn": found.learn},
        "driver_allows": bounds(stages, wanted.fleet, shape)["driver"],
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run("scaling_model", measure)
