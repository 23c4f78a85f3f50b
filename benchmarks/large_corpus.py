"""Memory of a run's processes over a corpus of millions of made-up pairs, and over a tenth of it.

Whoever makes the data tokenises the corpus into the run directory; a worker then reads batches from
all over it. Peaks are those of fresh processes, libraries included; ``anonymous`` memory is what
the operating system cannot take back (of mapped files it can take every page).
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.form import Figure, Result, run
from imitkd.demo import CONFIG, TEACHER
from imitkd.shipped import shipped
from seq2seq.checkpoint import load_model_vocabulary
from student_trainer.config import RunConfig, load_config
from student_trainer.training_data import kept_data, make_data

_BATCHES = 5000
_MB = 1e6


def config_of(corpus: Path) -> RunConfig:
    """The demo's, over another corpus."""
    named = [f"corpus.path={corpus}", f"vocabulary.from={shipped(TEACHER)}", "initialise=null"]
    return load_config(shipped(CONFIG), named)


def write_corpus(directory: Path, pairs: int) -> int:
    """Sentences of 2 to 20 words of the vocabulary, drawn by a fixed seed; bytes written."""
    vocabulary = load_model_vocabulary(shipped(TEACHER))
    pieces = [vocabulary.piece(i) for i in range(vocabulary.size)]
    words = np.array([p[1:] for p in pieces if p.startswith("▁") and p[1:].isalpha()])
    draw = np.random.default_rng(1)

    def texts() -> Iterator[str]:
        for count in draw.integers(2, 21, 2 * pairs):
            yield " ".join(words[draw.integers(0, len(words), count)])

    text = texts()
    with open(directory / "train.jsonl", "w", encoding="utf-8") as file:
        for source, target in zip(text, text, strict=True):
            record = {"source": source, "references": [target]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return (directory / "train.jsonl").stat().st_size


def memory() -> dict[str, float]:
    """Of this process: its peak, and what is anonymous now (Linux), in bytes."""
    fields = dict(x.split(":", 1) for x in Path("/proc/self/status").read_text().splitlines())
    return {
        "peak": 1024.0 * int(fields["VmHWM"].split()[0]),
        "anonymous": 1024.0 * int(fields["RssAnon"].split()[0]),
    }


def tokenised(corpus: Path, run_directory: Path) -> dict[str, float]:
    """Make the data of a run; seconds and memory."""
    config, before = config_of(corpus), memory()
    vocabulary = load_model_vocabulary(shipped(TEACHER))
    begin = time.perf_counter()
    make_data(config, vocabulary, run_directory)
    return memory() | {"seconds": time.perf_counter() - begin, "before": before["anonymous"]}


def read(corpus: Path, run_directory: Path) -> dict[str, float]:
    """Read batches from all over the first epoch as a worker does; seconds and memory."""
    config, before = config_of(corpus), memory()
    begin = time.perf_counter()
    data = kept_data(config, run_directory)
    opened, count = time.perf_counter(), 0
    for batch in range(_BATCHES):
        for row in data.plan.rows(batch):
            count += len(data.split.source(row)) + len(data.split.target(row))
    assert count, "nothing was read"
    ended = time.perf_counter()
    return memory() | {
        "open_seconds": opened - begin,
        "batch_seconds": (ended - opened) / _BATCHES,
        "before": before["anonymous"],
    }


def in_its_own_process(
    function: Callable[[Path, Path], dict[str, float]], *arguments: Path
) -> dict[str, float]:
    """What a fresh process gives."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measured(pairs: int) -> dict[str, Any]:
    """All about a corpus of so many pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus, run_directory = Path(scratch) / "corpus", Path(scratch) / "run"
        corpus.mkdir()
        run_directory.mkdir()
        size = write_corpus(corpus, pairs)
        made = in_its_own_process(tokenised, corpus, run_directory)
        worker = in_its_own_process(read, corpus, run_directory)
        kept = sum(f.stat().st_size for f in (run_directory / "tokens").iterdir())
    return {"pairs": pairs, "corpus": size, "tokens": kept, "made": made, "worker": worker}


def measure(quick: bool) -> Result:
    """Two corpora; what the larger one takes more."""
    pairs = 200_000 if quick else 2_000_000
    small, large = measured(pairs // 10), measured(pairs)
    more = pairs - pairs // 10

    def growth(who: str, what: str) -> Figure:
        return Figure((large[who][what] - small[who][what]) / more, "bytes a pair", "<= 40")

    return Result(
        {
            "pairs": Figure(pairs, "pairs"),
            "corpus_mb": Figure(large["corpus"] / _MB, "MB"),
            "tokens_mb": Figure(large["tokens"] / _MB, "MB"),
            "tokenised_per_s": Figure(pairs / large["made"]["seconds"], "pairs/s"),
            "make_peak_mb": Figure(large["made"]["peak"] / _MB, "MB"),
            "make_peak_tenth_mb": Figure(small["made"]["peak"] / _MB, "MB"),
            "worker_anonymous_mb": Figure(large["worker"]["anonymous"] / _MB, "MB"),
            "worker_anonymous_tenth_mb": Figure(small["worker"]["anonymous"] / _MB, "MB"),
            "worker_growth": growth("worker", "anonymous"),
            "open_s": Figure(large["worker"]["open_seconds"], "s"),
            "read_batch_ms": Figure(1000 * large["worker"]["batch_seconds"], "ms"),
        },
        {"large": large, "tenth": small},
    )


if __name__ == "__main__":
    run("large_corpus", measure)
