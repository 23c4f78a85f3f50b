"""An exported student against its teacher: the speed that is shipped, and what it costs.

Both sides translate the same sentences of one test split on two threads, taking turns after a
warm-up; a ratio is the median of those within a turn, tokenising included. The teacher with a beam
is in our own decoder, in torch; *the same engine* is CTranslate2 for both, greedy, at equal
precision (ONNX in float32 where one of them has a recurrent decoder). No such engine joins models:
of an ensemble it is the time of all members, one after the other, though what they write together
is only in ours. The loss is the BLEU of the student's smallest export (int8; ONNX where it is
recurrent) below that of the student itself, both greedy.
Latency is that of one sentence at a time. Cold start is the wall time of a process that loads this
export and translates one sentence, the start of Python included.

The student is the demo's (`make demo` makes it) and its teacher the shipped one, unless others are
named: `--student RUN_OR_MODEL --teacher MODEL [MODEL ...] --corpus DIR`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.form import Figure, Result, paired_ratio, run
from imitkd import Translator
from imitkd.demo import CORPUS, TEACHER
from imitkd.engines.own import OwnEngine
from imitkd.export.exporting import CheckOn, export
from imitkd.export.source import read_source
from imitkd.shipped import shipped
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import Example, read_split
from seq2seq.ensemble import join
from seq2seq.errors import UserError
from seq2seq.metrics import score_translations
from seq2seq.transformer import Transformer

THREADS = 2
# Small files run to small times; they are looked at alone.
LATENCY_SENTENCES = 200
Job = Callable[[list[str]], list[str]]

OPTIONS: dict[str, dict[str, Any]] = {
    "--student": {
        "type": Path,
        "default": Path("runs/demo"),
        "help": "run or model directory (default: the demo's run)",
    },
    "--teacher": {
        "type": Path,
        "nargs": "+",
        "default": None,
        "help": "model directory of its teacher, of an ensemble several (default: the shipped one)",
    },
    "--corpus": {
        "type": Path,
        "default": Path("data") / CORPUS,
        "help": "corpus directory with a validation and a test split",
    },
    "--split": {"default": "test", "help": "that is translated (default: test)"},
}


def measure(
    quick: bool, *, student: Path, teacher: list[Path] | None, corpus: Path, split: str
) -> Result:
    """Export both models, then time all of them on the same sentences."""
    torch.set_num_threads(THREADS)
    members = teacher or [shipped(TEACHER)]
    examples = read_split(corpus, split)[: 100 if quick else None]
    sources = [e.source for e in examples]
    with tempfile.TemporaryDirectory() as scratch:
        check_on = CheckOn(corpus, first=100 if quick else None)
        exports = _exports(Path(scratch), student, members, check_on)
        models = exports | {"student": read_source(student).directory.path}
        jobs: dict[str, Job] = {
            name: Translator(path, threads=THREADS).translate for name, path in models.items()
        }
        together = OwnEngine(join([load_model_directory(member) for member in members]))
        jobs["teacher_beam5"] = Translator.of(together, beam=5).translate
        texts, times = _turns(jobs, sources, 1 if quick else 5)
        smallest = "student_int8" if "student_int8" in exports else "student_onnx"
        latencies = _latencies(jobs[smallest], sources, quick)
        cold = _cold_start(exports[smallest], 1 if quick else 5)
        size = _megabytes(exports[smallest])
    median = {name: statistics.median(found) for name, found in times.items()}
    scores = _scores(texts, examples)
    loss = scores["student"]["bleu"] - scores[smallest]["bleu"]
    figures = {
        "export_int8_over_teacher_beam5": Figure(
            paired_ratio(times["teacher_beam5"], times[smallest]), "ratio", ">= 14"
        ),
        **_same_engine(times, len(members)),
        "export_int8_over_student": Figure(
            paired_ratio(times["student"], times[smallest]), "ratio"
        ),
        "export_bleu_loss": Figure(loss, "BLEU", "<= 0.3"),
        "latency_ms_p50": Figure(_percentile(latencies, 50), "ms"),
        "latency_ms_p99": Figure(_percentile(latencies, 99), "ms"),
        "size_mb": Figure(size, "MB", "<= 10"),
        "cold_start_s": Figure(statistics.median(cold), "s"),
    }
    detail = {
        "sentences": len(examples),
        "threads": THREADS,
        "student": str(student),
        "teacher": " ".join(map(str, members)),
        "smallest": smallest,
        "seconds": times,
        "sentences_per_s": {name: len(examples) / found for name, found in median.items()},
        "scores": scores,
        "cold_start_s": cold,
    }
    return Result(figures, detail)


def _exports(
    scratch: Path, student: Path, members: list[Path], check_on: CheckOn
) -> dict[str, Path]:
    """The student and the teacher's members in every form they share, and the student's smallest.

    Each is checked on the validation split.
    """
    sources = {"student": student} | {_member(n): path for n, path in enumerate(members)}
    known = {name: isinstance(read_source(s).model, Transformer) for name, s in sources.items()}
    wanted = [("student", "int8")] if known["student"] else []
    kinds = ["int8", "float32"] if all(known.values()) else ["onnx"]
    wanted += [(name, kind) for kind in kinds for name in sources if (name, kind) not in wanted]
    found: dict[str, Path] = {}
    for name, kind in wanted:
        path = found[f"{name}_{kind}"] = scratch / f"{name}_{kind}"
        form, quantization = ("onnx", "float32") if kind == "onnx" else ("ctranslate2", kind)
        export(sources[name], form, path, quantization, check_on)
    return found


def _member(place: int) -> str:
    return "teacher" if not place else f"teacher{place + 1}"


def _same_engine(times: dict[str, list[float]], members: int) -> dict[str, Figure]:
    """Teacher's over student's time, each in the same engine; the first is the figure to reach."""
    kinds = [k for k in ("int8", "float32", "onnx") if f"teacher_{k}" in times]
    name, found = "export_over_teacher_same_engine", {}
    for kind in kinds:
        each = [times[f"{_member(n)}_{kind}"] for n in range(members)]
        together = [sum(turn) for turn in zip(*each, strict=True)]
        ratio = paired_ratio(together, times[f"student_{kind}"])
        if not found:
            found[name] = Figure(ratio, "ratio", ">= 4")
        found[f"{name}_{kind}"] = Figure(ratio, "ratio")
    return found


def _turns(
    jobs: dict[str, Job], sources: list[str], repeats: int
) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """Translations, and seconds of every repeat."""
    for job in jobs.values():
        job(sources[:16])
    texts: dict[str, list[str]] = {}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            begin = time.perf_counter()
            texts[name] = job(sources)
            times[name].append(time.perf_counter() - begin)
    return texts, times


def _latencies(job: Job, sources: list[str], quick: bool) -> list[float]:
    """Milliseconds of sentences one by one, spread over the split."""
    count = 50 if quick else LATENCY_SENTENCES
    step = max(1, len(sources) // count)
    found = []
    for source in sources[::step]:
        begin = time.perf_counter()
        job([source])
        found.append(1000 * (time.perf_counter() - begin))
    return found


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _cold_start(path: Path, repeats: int) -> list[float]:
    """Seconds from nothing to the first translation, the file in memory already."""
    command = [sys.executable, "-m", "imitkd", "translate", str(path), "--threads", str(THREADS)]
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        done = subprocess.run(command, input=b"Close the door.\n", capture_output=True, check=False)
        found.append(time.perf_counter() - begin)
        if done.returncode:
            raise UserError(done.stderr.decode())
    return found


def _megabytes(path: Path) -> float:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6


def _scores(texts: dict[str, list[str]], examples: list[Example]) -> dict[str, Any]:
    references = [e.references for e in examples]
    return {name: score_translations(t, references).as_dict() for name, t in texts.items()}


if __name__ == "__main__":
    run("student_speed", measure, OPTIONS)
