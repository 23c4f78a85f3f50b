"""Where the time of a training step and of greedy decoding goes, by kind of operation.

The batches, shapes and sentences of ``benchmarks.training_step`` and ``benchmarks.generation``: a
step of the plain loop, ours on references and ours on a teacher's distributions; a batch of 64
captions through ``transformers`` and through ours. Each side runs once before it is watched. A
figure is a share of all time spent within operations of torch (attention of one query is made of
plain products here); the detail has milliseconds by operation. What Python does between operations
is ``outside_operations``, a share of wall time, the watching included.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import generation, training_step
from benchmarks.form import Figure, Result, run
from imitkd.shipped import shipped
from seq2seq.checkpoint import load_model_directory
from seq2seq.transformer import Transformer
from seq2seq.translation import encode_sources

# The first kind with a word that occurs in an operation's name.
KINDS = {
    "attention": ("attention",),
    "softmax": ("softmax", "logsumexp"),
    "optimiser": ("adam", "foreach", "clip", "vector_norm"),
    "normalisation": ("norm",),
    "products": ("mm", "linear", "dot"),
    "random_numbers": ("bernoulli", "random", "uniform", "dropout"),
    "moving": (
        "copy",
        "index",
        "gather",
        "scatter",
        "cat",
        "embedding",
        "clone",
        "slice",
        "masked",
    ),
    "element_wise": (
        "add",
        "mul",
        "sub",
        "div",
        "relu",
        "threshold",
        "exp",
        "log",
        "where",
        "fill",
    ),
}
SENTENCES = 64
_SHOWN = 12


def measure(quick: bool) -> Result:
    """Shares of every side."""
    torch.set_num_threads(2)
    figures: dict[str, Figure] = {}
    detail: dict[str, Any] = {}
    for name, (warm_up, job) in (_steps() | _decoders(16 if quick else SENTENCES)).items():
        warm_up()
        shares, detail[name] = _watched(job)
        figures |= {f"{name}: {kind}": Figure(share, "share") for kind, share in shares.items()}
    return Result(figures, detail)


Side = tuple[Callable[[], Any], Callable[[], Any]]


def _steps() -> dict[str, Side]:
    plain, labelled, _, size = training_step._batches(2)
    sides: dict[str, Callable[[int], float]] = {
        "plain step": training_step._Peer(size, plain),
        "step": training_step._Ours(size, plain, "vanilla"),
        "step on distributions": training_step._Ours(size, labelled, "imitkd-full"),
    }
    return {name: (lambda s=s: s(0), lambda s=s: s(1)) for name, s in sides.items()}


def _decoders(count: int) -> dict[str, Side]:
    directory = load_model_directory(shipped(generation.TEACHER))
    model = directory.model
    assert isinstance(model, Transformer)
    texts, _ = generation._texts(count)
    sources = encode_sources(directory.vocabulary, texts, model.config.max_source_length)
    peer = generation._Transformers(model, sources)
    sides: dict[str, Callable[[], Any]] = {
        "transformers decoding": lambda: peer(1),
        "decoding": lambda: generation._ours(model, sources, 1),
    }
    return {name: (side, side) for name, side in sides.items()}


def _watched(job: Callable[[], Any]) -> tuple[dict[str, float], dict[str, Any]]:
    begin = time.perf_counter()
    job()
    alone = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CPU]) as watch:
        begin = time.perf_counter()
        job()
        wall = time.perf_counter() - begin
    took = {e.key: e.self_cpu_time_total / 1e6 for e in watch.key_averages()}
    total = sum(took.values())
    kinds: Counter[str] = Counter()
    for operation, seconds in took.items():
        kinds[kind_of(operation)] += seconds / total
    shares = {kind: kinds[kind] for kind in (*KINDS, "other")}
    shares["outside_operations"] = max(0.0, 1 - total / wall)
    largest = sorted(took.items(), key=lambda item: -item[1])[:_SHOWN]
    return shares, {
        "ms": 1000 * alone,
        "ms_watched": 1000 * wall,
        "operations_ms": {name: round(1000 * seconds, 2) for name, seconds in largest},
    }


def kind_of(operation: str) -> str:
    """The kind that an operation of torch is counted with."""
    name = operation.removeprefix("aten::").lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other")


if __name__ == "__main__":
    run("profiles", measure)
