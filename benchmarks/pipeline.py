"""The pipeline against what it could be at best, and against one process.

- ``ray_over_inline_cpu``: the demo's job, sentences/s of the Ray runtime over those of the inline
  one, both against the same teacher process with the same (M, lag), runs taking turns;
- ``overlap_over_bound``: stages that sleep for a fixed time; steps/s over those of the slowest
  stage alone, the worst of three cases. The same stages in one process get the rate of their sum;
- ``scaling_efficiency_8``: eight workers that sleep over eight times one;
- ``learner_idle_share``: of the wall time of the Ray runs of the demo's job;
- ``publish_ms_100m``: from the call until four workers hold the weights of 100M parameters;
- ``driver_memory_growth_mb``: of the driver's resident memory over 10,000 batches.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.form import Figure, Result, paired_ratio, run
from benchmarks.sleeping_stages import (
    SleepingLearnerActor,
    SleepingRolloutActor,
    Stages,
    config_of,
    drive,
)
from imitkd.corpora import prepare
from imitkd.demo import CONFIG, CORPUS, TEACHER
from imitkd.serving import serve_arguments, serving
from imitkd.shipped import shipped
from student_trainer.config import load_config
from student_trainer.ray_runtime import cluster
from student_trainer.run_directory import RunDirectory
from student_trainer.sizing import DEPTH
from student_trainer.training import train
from student_trainer.types import StepReport, ValidationReport

_NO_CACHES = ("--encoder-cache-mib", "0", "--score-cache-mib", "0")
_WARM_UP = 8


def measure(quick: bool) -> Result:
    """All figures, within one Ray."""
    parameters = 10_000_000 if quick else 100_000_000
    # One Ray for all: each start takes seconds and would measure itself.
    started = cluster.connect((256 << 20) + 3 * 4 * parameters, cpus=2)
    with contextlib.closing(started), tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        cpu = _cpu(scratch, *((24, 1) if quick else (96, 3)))
        overlap = _overlap(scratch, 30 if quick else 100)
        scaling = _scaling(scratch, 10 if quick else 25)
        publish = _publish(parameters, 3 if quick else 7)
        growth = _memory(scratch, 1_000 if quick else 10_000)
    sides = [[r[side] for r in cpu["runs"]] for side in ("ray", "inline")]
    return Result(
        {
            "ray_over_inline_cpu": Figure(paired_ratio(*sides), "ratio", ">= 0.95"),
            "overlap_over_bound": Figure(min(c["over_bound"] for c in overlap), "ratio", ">= 0.95"),
            "scaling_efficiency_8": Figure(scaling["efficiency"], "ratio", ">= 0.9"),
            "learner_idle_share": Figure(
                statistics.median(r["idle_share"] for r in cpu["runs"]), "share"
            ),
            "publish_ms_100m": Figure(statistics.median(publish), "ms"),
            "driver_memory_growth_mb": Figure(growth["growth_mb"], "MB", "<= 50"),
        },
        {
            "cpu": cpu,
            "overlap": overlap,
            "scaling": scaling,
            "publish_ms": publish,
            "publish_parameters": parameters,
            "memory": growth,
        },
    )


def _cpu(scratch: Path, steps: int, repeats: int) -> dict[str, Any]:
    corpus = Path("data") / CORPUS
    prepare(CORPUS, corpus)
    runs = []
    arguments = [*serve_arguments(shipped(TEACHER), threads=1), *_NO_CACHES]
    with serving(arguments, scratch / "teacher.log") as address:
        for repeat in range(repeats):
            found: dict[str, float] = {}
            # Whoever is first meets another machine: they take turns.
            for runtime in ("inline", "ray") if repeat % 2 == 0 else ("ray", "inline"):
                output = scratch / f"cpu-{runtime}-{repeat}"
                total = _job(runtime, corpus, address, output, steps)
                found[runtime] = total["sentences"] / total["wall_s"]
                if runtime == "ray":
                    found["idle_share"] = total["idle_s"] / total["wall_s"]
            runs.append(found)
    return {"steps": steps, "runs": runs, "unit": "sentences/s"}


def _job(runtime: str, corpus: Path, address: str, output: Path, steps: int) -> dict[str, float]:
    config = load_config(
        shipped(CONFIG),
        [
            f"runtime={runtime}",
            f"corpus.path={corpus}",
            f"vocabulary.from={shipped(TEACHER)}",
            f"initialise.from={shipped(TEACHER)}",
            f"teacher.address={address}",
            f"optimiser.steps={steps}",
            # beta at its mean over the demo's schedule: most rows are the student's own.
            "mixing={schedule: constant, value: 0.19}",
            "validation.sentences=8",
            f"validation.every={steps}",
        ],
    )
    train(config, output)
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    records = [r for r in lines if r["kind"] == "step"][_WARM_UP:]
    return {k: sum(r[k] for r in records) for k in ("sentences", "wall_s", "idle_s")}


def _overlap(scratch: Path, steps: int) -> list[dict[str, float]]:
    """Each stage the slowest once; one worker, one teacher, one learner."""
    found = []
    for case, times in enumerate([(0.1, 0.06, 0.04), (0.04, 0.1, 0.06), (0.06, 0.04, 0.1)]):
        stages = Stages(*times)
        config = config_of(stages, steps)
        rate = drive(config, scratch / f"overlap-{case}").steps_per_s(_WARM_UP)
        short = config_of(stages, 10)
        alone = drive(short, scratch / f"turns-{case}", inline=True).steps_per_s(1)
        found.append(
            {
                "generate_s": times[0],
                "score_s": times[1],
                "learn_s": times[2],
                "steps_per_s": rate,
                "over_bound": rate * max(times),
                "one_process_steps_per_s": alone,
                "one_process_over_its_bound": alone * sum(times),
            }
        )
    return found


def _scaling(scratch: Path, steps: int) -> dict[str, Any]:
    """Eight shards a batch, so that eight workers share one; the learner never bounds."""
    stages, rates = Stages(0.1, 0.05, 0.01), {}
    for workers in (1, 2, 4, 8):
        few = max(steps * workers // 8, 6)
        config = config_of(stages, few + 4, workers=workers, shards=8)
        pace = drive(config, scratch / f"scaling-{workers}")
        rates[workers] = pace.steps_per_s(4)
    return {
        "steps_per_s": rates,
        "efficiency": rates[8] / (8 * rates[1]),
        "over_bound": {w: r * 8 * stages.generate_s / w for w, r in rates.items()},
    }


def _publish(parameters: int, repeats: int) -> list[float]:
    """Milliseconds from the learner's call until each of four workers has copied the weights."""
    config = config_of(Stages(parameters=parameters), 1)
    found = []
    learner = ray.remote(SleepingLearnerActor).options(num_cpus=0)
    learner = learner.remote(config, RunDirectory(Path("none")))
    actor = ray.remote(SleepingRolloutActor).options(num_cpus=0, max_concurrency=DEPTH)
    workers = [actor.remote(config, Path("none"), []) for _ in range(4)]
    ray.get([a.prepare.remote() for a in (learner, *workers)])
    for version in range(repeats + 1):
        begin = time.perf_counter()
        weights = learner.publish.remote(version)
        ray.get([w.fetch.remote(weights, version) for w in workers])
        found.append(1000 * (time.perf_counter() - begin))
        ray.get(learner.retire.remote(version))
    for one in (learner, *workers):
        ray.kill(one)
    return found[1:]


class Memory:
    """An observer that looks at the memory of this process after certain steps."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps
        self.found_mb: list[float] = []

    def on_step(self, report: StepReport, wall_s: float) -> None:
        if report.step in self._steps:
            self.found_mb.append(_resident_mb())

    def on_validation(self, report: ValidationReport) -> None:
        """Comes after the last step."""


def _memory(scratch: Path, batches: int) -> dict[str, float]:
    """Growth of this process, the driver, from a tenth of the batches on."""
    memory = Memory(batches // 10, batches)
    pace = drive(config_of(Stages(), batches), scratch / "memory", observers=[memory])
    first, last = memory.found_mb
    return {
        "begin_mb": first,
        "growth_mb": last - first,
        "batches": batches,
        "ms_per_batch": 1000 / pace.steps_per_s(batches // 10),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run("pipeline", measure)
