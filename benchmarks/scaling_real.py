"""What `imitkd doctor` measures, what follows from it, and what real runs then make.

The demo's job: its teacher really served (no caches), its student really writing and learning, on
Ray. `imitkd doctor` tries its steps one stage after the other and tells the seconds of each; from
these follow, for one and two workers and one and two learners, the rate that the arithmetic of
``student_trainer/sizing.py`` allows and the one of the simulation. Then these runs are made.

Every worker, learner and the teacher has one thread, and all share the cores of this machine, so
both predictions count cores: the arithmetic by the work of a batch over the cores, the simulation
by stages that slow each other down. Cores that are slower together than alone are not counted, nor
what driver and Ray compute. The learning rate is almost nothing: a student that learns would write
other lengths at the end of a run than the doctor saw at its beginning. What several learners share
a step costs beside each one's part (c) comes from runs of their own, without Ray and on references.

- ``real_simulated_worst_error``, ``real_simulated_mean_error``: |foretold / measured - 1| of the
  simulated rates;
- ``real_arithmetic_worst_error``: the same of the least bound.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.form import Figure, Result, run
from benchmarks.pipeline_simulation import Plan, simulate
from imitkd.corpora import prepare
from imitkd.demo import CONFIG, CORPUS, TEACHER
from imitkd.doctor.sizing import shape_of
from imitkd.serving import serve_arguments, serving
from imitkd.shipped import shipped
from student_trainer.config import load_config
from student_trainer.ray_runtime import cluster
from student_trainer.sizing import Fleet, Shape, Stages, bounds
from student_trainer.training import train

_NO_CACHES = ("--encoder-cache-mib", "0", "--score-cache-mib", "0")
# Of the doctor's checks, those that tell no time and take some.
_SKIPPED = ("ray", "pieces", "overlap", "directory", "scores", "divergence")
_ANSWER_S = 0.002  # of a question beside the model's time: ``benchmarks.scaling_model``
_LONG = 400  # simulated steps: the rate in the middle of a run has no begin and no end
_MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A run on this machine, with one replica."""

    workers: int
    learners: int

    @property
    def fleet(self) -> Fleet:
        """In the terms of sizing."""
        return Fleet(self.workers, 1, self.learners)


def measure(quick: bool) -> Result:
    """Ask the doctor, foretell, run."""
    grid = [(1, 1), (2, 1), (1, 2)] if quick else [(1, 1), (2, 1), (1, 2), (2, 2)]
    cases = [Case(*case) for case in grid]
    steps, repeats = (24, 1) if quick else (96, 3)
    cores = len(os.sched_getaffinity(0))
    corpus = Path("data") / CORPUS
    prepare(CORPUS, corpus)
    arguments = [*serve_arguments(shipped(TEACHER), threads=1), *_NO_CACHES]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with serving(arguments, scratch / "teacher.log") as address:
            common = _overrides(corpus, address, 512 if quick else 1024)
            stages = _of_doctor(common, scratch / "doctor")
            stages = replace(stages, share_s=_shared(common, scratch, 6 if quick else 24))
            measured = _measured(cases, common, scratch, steps, repeats)
    shape = shape_of(load_config(shipped(CONFIG), common))
    rows = [
        asdict(case) | foretold(stages, case.fleet, shape, cores) | found
        for case, found in zip(cases, measured, strict=True)
    ]
    errors, plain = (
        [abs(row[side] / row["measured"] - 1) for row in rows] for side in ("simulated", "allowed")
    )
    return Result(
        {
            "real_simulated_worst_error": Figure(max(errors), "share"),
            "real_simulated_mean_error": Figure(statistics.mean(errors), "share"),
            "real_arithmetic_worst_error": Figure(max(plain), "share"),
        },
        {"of_doctor": asdict(stages), "shape": asdict(shape), "cores": cores, "real_runs": rows},
    )


def foretold(stages: Stages, fleet: Fleet, shape: Shape, cores: float) -> dict[str, Any]:
    """Batches a second: simulated, and the least of the bounds, which is named.

    ``cores`` is a bound here: workers, one replica and the learners have a thread each on them.
    """
    learning = fleet.learners * stages.learn_by(fleet.learners)
    allowed = bounds(stages, fleet, shape)
    allowed["cores"] = cores / (stages.generate_s + stages.score_s + learning)
    bound = min(allowed, key=lambda part: allowed[part])
    plan = Plan(stages, fleet, shape, answer_s=_ANSWER_S, cores=cores)
    return {
        "simulated": simulate(plan, _LONG).rate,
        "allowed": allowed[bound],
        "bound": bound,
    }


def _overrides(corpus: Path, address: str, tokens: int) -> list[str]:
    return [
        f"corpus.path={corpus}",
        f"vocabulary.from={shipped(TEACHER)}",
        f"initialise.from={shipped(TEACHER)}",
        f"teacher.address={address}",
        f"batch.tokens={tokens}",
        # beta at its mean over the demo's schedule: most rows are the student's own.
        "mixing={schedule: constant, value: 0.19}",
        "optimiser.learning_rate=1e-9",
        "optimiser.warmup=0",
        "validation.sentences=8",
    ]


def _of_doctor(common: Sequence[str], output: Path) -> Stages:
    """The stage times of its check ``sizing``, and the rest as sizing takes it."""
    skipped = [part for name in _SKIPPED for part in ("--skip", name)]
    command = ["doctor", str(shipped(CONFIG)), *common, "--output", str(output), "--json", *skipped]
    done = subprocess.run(
        [sys.executable, "-m", "imitkd", *command], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the doctor ended with status {done.returncode}: {done.stdout}")
    findings = json.loads(done.stdout)["findings"]
    facts = next(
        f["facts"] for f in findings if f["check"] == "sizing" and "learners" in f["facts"]
    )
    return Stages(**{name: facts[name] for name in Stages.__dataclass_fields__})


def _shared(common: Sequence[str], scratch: Path, steps: int) -> float:
    """c: seconds of a step of two learners beside half of one's."""
    plain = ["method=vanilla", "runtime=inline", "teacher=null", "rollout.pool=1", "rollout.lag=0"]
    seconds = []
    for learners in (1, 2):
        output = scratch / f"shared-{learners}"
        records = _run([*common, *plain, f"learner_processes={learners}"], output, steps)
        seconds.append(statistics.median(record["learn_s"] for record in records[steps // 3 :]))
    return max(0.0, seconds[1] - seconds[0] / 2)


def _measured(
    cases: Sequence[Case], common: Sequence[str], scratch: Path, steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Batches a second of each case, the median of its runs, which take turns."""
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    # One Ray for all: each start takes seconds.
    connection = cluster.connect(256 * _MIB, cpus=2)
    try:
        for repeat in range(repeats):
            for place, case in enumerate(cases):
                output = scratch / f"run-{repeat}-{place}"
                wanted = f"learner_processes={case.learners}"
                records = _run([*common, f"workers={case.workers}", wanted], output, steps)
                found[place].append(_in_the_middle(records))
    finally:
        connection.close()
    return [
        {
            "measured": statistics.median(one["rate"] for one in of_case),
            "measured_each": [one["rate"] for one in of_case],
            # How much longer stages took than the doctor saw, as they shared the cores.
            "in_the_run": {
                name: statistics.median(one[name] for one in of_case)
                for name in ("generate_s", "score_s", "teacher_s", "learn_s", "idle_s")
            },
        }
        for of_case in found
    ]


def _run(overrides: Sequence[str], output: Path, steps: int) -> list[dict[str, Any]]:
    """The steps' records of a run of its own."""
    limits = [f"optimiser.steps={steps}", f"validation.every={steps}"]
    train(load_config(shipped(CONFIG), [*overrides, *limits]), output)
    records = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "step"]


def _in_the_middle(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Rate and mean seconds of a batch where workers run ahead as far as they may: after what was
    written while nothing was learnt, before there is nothing left to write. Whole pools."""
    middle = records[8:-8]
    means = {
        name: statistics.mean(record[name] for record in middle)
        for name in ("generate_s", "score_s", "teacher_s", "learn_s", "idle_s", "wall_s")
    }
    return means | {"rate": 1 / means["wall_s"]}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run("scaling_real", measure)
