"""The main job, measured: teacher process, Ray actors, learner, as the demo runs them.

``sentences_per_s`` is what the learner took in per wall second from the first to the last step;
the shares are seconds of work in each stage over the sum of all three, and ``learner_idle_share``
the part of the wall time in which the learner waited for shards.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.form import Figure, Result, run
from imitkd.corpora import prepare
from imitkd.demo import CONFIG, CORPUS, TEACHER
from imitkd.serving import serve_arguments, serving
from imitkd.shipped import shipped
from student_trainer.config import load_config
from student_trainer.training import train

_WARM_UP_STEPS = 8
# Repeats ask for the same scores: a teacher that kept them would answer from memory.
_NO_CACHES = ("--encoder-cache-mib", "0", "--score-cache-mib", "0")


def measure(quick: bool) -> Result:
    """Train for a while with the demo's configuration; medians over repeats."""
    steps, repeats = (32, 1) if quick else (96, 3)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path("data") / CORPUS
        prepare(CORPUS, corpus)
        runs = []
        with serving(
            [*serve_arguments(shipped(TEACHER), threads=1), *_NO_CACHES],
            Path(scratch) / "teacher.log",
        ) as address:
            for repeat in range(repeats):
                output = Path(scratch) / f"run-{repeat}"
                runs.append(_run(corpus, address, output, steps))
    median = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    units = {"sentences_per_s": "sentences/s"}
    return Result(
        {k: Figure(v, units.get(k, "share")) for k, v in median.items()},
        {"steps": steps, "runs": runs, "config": CONFIG},
    )


def _run(corpus: Path, address: str, output: Path, steps: int) -> dict[str, float]:
    # beta at its mean over the demo's schedule: most rows are the student's own.
    config = load_config(
        shipped(CONFIG),
        [
            f"corpus.path={corpus}",
            f"vocabulary.from={shipped(TEACHER)}",
            f"initialise.from={shipped(TEACHER)}",
            f"teacher.address={address}",
            f"optimiser.steps={steps}",
            "mixing.schedule=constant",
            "mixing.value=0.19",
            "validation.sentences=8",
            f"validation.every={steps}",
        ],
    )
    train(config, output)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if r["kind"] == "step"][_WARM_UP_STEPS:]
    keys = ("sentences", "wall_s", "idle_s", "generate_s", "score_s", "learn_s")
    total = {k: sum(r[k] for r in records) for k in keys}
    busy = total["generate_s"] + total["score_s"] + total["learn_s"]
    return {
        "sentences_per_s": total["sentences"] / total["wall_s"],
        "learner_idle_share": total["idle_s"] / total["wall_s"],
        "generate_share": total["generate_s"] / busy,
        "score_share": total["score_s"] / busy,
        "learn_share": total["learn_s"] / busy,
    }


if __name__ == "__main__":
    run("end_to_end", measure)
