"""What the teacher service costs over its model, and how it stands an overload.

The shipped teacher scores Multi30k captions with German targets, TOP_K 64, requests of 8 sentences.
The ideal is the same forward pass and payload in this process, on batches of the same token budget
made of all sentences sorted by length. The server is a process of its own; model threads are the
same on both sides, one fewer than the machine has cores: the clients run on it as well. Sides take
turns and ratios are medians of those within a turn. On a machine that does other things as well the
figures are worth little: ``detail`` has every round.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.form import Figure, Result, paired_ratio, run
from benchmarks.teacher_load import Answers, Call, closed_loop, open_loop
from imitkd.demo import TEACHER
from imitkd.serving import serve_arguments, serving
from imitkd.shipped import shipped
from protos.teacher.v1 import teacher_pb2 as pb
from seq2seq.vocabulary import load_vocabulary
from teacher_service import requests
from teacher_service.client import TeacherClient
from teacher_service.codec import TopKSpec
from teacher_service.local_model import LocalModel, load_local_model
from teacher_service.work import ScoreChoice, ScoreItem

MULTI30K = Path("../shared/data/multi30k")
SENTENCES = 8  # in a request
CLIENTS = 8
BATCH_TOKENS = 4096
PAYLOAD = TopKSpec(64)
CHOICE = ScoreChoice(pb.PAYLOAD_KIND_TOP_K, pb.DATA_TYPE_FLOAT16, k=64)
THREADS = max(1, (os.cpu_count() or 1) - 1)
# What may wait under overload: about half a second of work.
QUEUE_REQUESTS = 32
NO_CACHES = ("--encoder-cache-mib", "0", "--score-cache-mib", "0")


def measure(quick: bool) -> Result:
    """All figures of the issue, one run."""
    if not MULTI30K.is_dir():
        print(f"skipped: {MULTI30K} is not there", file=sys.stderr)
        raise SystemExit(0)
    rounds, count, seconds = (1, 64, 8.0) if quick else (5, 64, 30.0)
    calls = _calls(rounds * count)
    parts = [calls[i * count : (i + 1) * count] for i in range(rounds)]
    model = load_local_model(shipped(TEACHER), "cpu", "fp32", THREADS)
    model.warm_up(BATCH_TOKENS)
    with _server(*NO_CACHES) as (address, _):
        closed_loop(address, parts[0][:CLIENTS], PAYLOAD, CLIENTS)
        sides = [_throughput(model, address, part) for part in parts]
        added = _idle_latency(address, calls[: 20 if quick else 60])
    pace = {name: statistics.median(side[name] for side in sides) for name in sides[0]}
    with _server() as (address, _):
        passes = [_cached(address, part) for part in parts]
    first = [p[0] for p in passes]
    faster = {n: paired_ratio(first, [p[i] for p in passes]) for n, i in _PASSES.items()}
    with _server(*NO_CACHES, "--queue-requests", str(QUEUE_REQUESTS)) as (address, process):
        overload = _overload(address, process, calls, seconds)
    return Result(
        {
            "served_over_ideal": Figure(_ratio(sides, "served", "ideal"), "ratio", ">= 0.90"),
            "served_over_one_at_a_time": Figure(_ratio(sides, "served", "one_at_a_time"), "ratio"),
            "idle_added_latency_ms_p50": Figure(1000 * statistics.median(added), "ms", "<= 2"),
            "encoder_cache_speedup": Figure(faster["new targets"], "ratio", ">= 1.3"),
            "score_cache_speedup": Figure(faster["repeated"], "ratio", ">= 10"),
            **overload.pop("figures"),
        },
        {
            "positions_per_s": pace,
            "rounds": sides,
            "idle_added_latency_ms": [round(1000 * x, 3) for x in added],
            "seconds_of_passes": passes,
            "overload": overload,
            "model_threads": THREADS,
            "requests": len(calls),
        },
    )


def _ratio(sides: list[dict[str, float]], above: str, below: str) -> float:
    return paired_ratio([side[above] for side in sides], [side[below] for side in sides])


def _calls(count: int) -> list[Call]:
    """The first pairs of the training split, in their order: lengths are mixed."""
    vocabulary = load_vocabulary(shipped(TEACHER) / "tokenizer")
    lines = [
        gzip.decompress((MULTI30K / f"train.{language}.gz").read_bytes()).decode().splitlines()
        for language in ("en", "de")
    ]
    sources = [vocabulary.encode_source(text) for text in lines[0][: SENTENCES * count]]
    targets = [vocabulary.encode_target(text) for text in lines[1][: SENTENCES * count]]
    return [
        Call(sources[i : i + SENTENCES], targets[i : i + SENTENCES])
        for i in range(0, SENTENCES * count, SENTENCES)
    ]


@contextmanager
def _server(*flags: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server with these flags."""
    arguments = [*serve_arguments(shipped(TEACHER), THREADS), *flags]
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(arguments, Path(scratch) / "teacher.log") as address,
    ):
        (process,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        yield address, int(process)


def _throughput(model: LocalModel, address: str, calls: Sequence[Call]) -> dict[str, float]:
    """Positions a second of each side on the same sentences."""
    positions = sum(call.positions for call in calls)
    items = _items(calls)
    some = items[:: max(1, len(items) // 128)]
    ideal = _score_all(model, _ideal_batches(items))
    served = closed_loop(address, calls, PAYLOAD, CLIENTS)
    alone = _score_all(model, [[item] for item in some])
    return {
        "ideal": positions / ideal,
        "served": positions / served,
        "one_at_a_time": sum(len(item.target) for item in some) / alone,
    }


def _items(calls: Sequence[Call]) -> list[ScoreItem]:
    return [
        ScoreItem(source, target)
        for call in calls
        for source, target in zip(call.sources, call.targets, strict=True)
    ]


def _ideal_batches(items: Sequence[ScoreItem]) -> list[list[ScoreItem]]:
    """Sorted by the longer side, which pads least; as many as the budget of padded ids takes."""
    batches: list[list[ScoreItem]] = [[]]
    for item in sorted(items, key=lambda i: (max(len(i.source), len(i.target)), len(i.source))):
        batch = [*batches[-1], item]
        longest = max(len(i.source) for i in batch) + max(len(i.target) for i in batch)
        if len(batch) * longest > BATCH_TOKENS:
            batches.append([item])
        else:
            batches[-1] = batch
    return batches


def _score_all(model: LocalModel, batches: Sequence[Sequence[ScoreItem]]) -> float:
    begin = time.perf_counter()
    for batch in batches:
        model.score(CHOICE, batch)
    return time.perf_counter() - begin


def _idle_latency(address: str, calls: Sequence[Call]) -> list[float]:
    """Of each request to an idle server: seconds beyond those its batch took in the model.

    The model's own time is the server's word for that very request: two runs of one batch differ by
    more than what is looked for.
    """
    added = []
    with TeacherClient(address) as client:
        client.score(calls[0].sources, calls[0].targets, PAYLOAD)
        for call in calls:
            time.sleep(0.02)  # the server is idle again, and asleep
            begin = time.perf_counter()
            result = client.score(call.sources, call.targets, PAYLOAD)
            added.append(time.perf_counter() - begin - result.compute_seconds)
    return added


# Place of each pass in what _cached gives back.
_PASSES = {"new targets": 1, "repeated": 2}


def _cached(address: str, calls: Sequence[Call]) -> list[float]:
    """Seconds of a first pass, of one with new targets of the same lengths, and of its repeat."""
    # The same ids in another order, the end symbol staying last.
    other = [Call(c.sources, [[*t[-2::-1], *t[-1:]] for t in c.targets]) for c in calls]
    return [closed_loop(address, part, PAYLOAD, CLIENTS) for part in (calls, other, other)]


def _overload(address: str, process: int, calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    """An open loop at twice the peak, which is measured on this server before and after it."""
    spec = requests.payload_spec(PAYLOAD)
    messages = [
        (
            requests.score_request(
                pb.ModelExpectation(), spec, 1.0, call.sources, call.targets
            ).SerializeToString(),
            call.positions,
        )
        for call in calls
    ]
    mean = statistics.mean(call.positions for call in calls)
    before = _peak(address, calls)
    memory: list[tuple[float, float]] = []
    answers = open_loop(
        address,
        messages,
        2 * before / mean,
        seconds,
        lambda now: memory.append((now, _resident_mb(process))),
    )
    after = _peak(address, calls)
    assert answers.refusal_s, "nothing was refused: the peak was measured on a busy machine"
    return {
        "figures": _overload_figures(answers, (before + after) / 2, seconds, memory),
        "peak_positions_per_s": [before, after],
        "sent": answers.sent,
        "full answers": len(answers.done_at),
        "refused": len(answers.refusal_s),
        "other faults": answers.faults,
        "requests_per_s": 2 * before / mean,
        "sent_late_ms_p99": 1000 * float(np.percentile(answers.late_s, 99)),
        "resident_mb": memory,
    }


def _overload_figures(
    answers: Answers, peak: float, seconds: float, memory: Sequence[tuple[float, float]]
) -> dict[str, Figure]:
    # Until the first answers come, and after the last request is sent, there is no overload.
    begin = seconds / 10
    done = sum(positions for at, positions in answers.done_at if begin <= at <= seconds)
    refusals = 1000 * np.array(answers.refusal_s)
    thirds = [
        statistics.median(mb for at, mb in memory if a * seconds / 3 <= at <= (a + 1) * seconds / 3)
        for a in (1, 2)
    ]
    return {
        "overload_goodput_over_peak": Figure(done / (seconds - begin) / peak, "ratio", ">= 0.9"),
        "refusal_ms_p50": Figure(float(np.percentile(refusals, 50)), "ms", "<= 10"),
        "refusal_ms_p99": Figure(float(np.percentile(refusals, 99)), "ms", "<= 50"),
        # Of the last third over the second: the first shapes of batches are new to the allocator.
        "overload_memory_growth": Figure(thirds[1] / thirds[0] - 1, "share", "<= 0.1"),
        "overload_answered_once": Figure(answers.answered / answers.sent, "ratio", "== 1"),
    }


def _peak(address: str, calls: Sequence[Call]) -> float:
    """Positions a second served to clients that wait for their answers."""
    some = calls[: 4 * CLIENTS]
    return sum(call.positions for call in some) / closed_loop(address, some, PAYLOAD, CLIENTS)


def _resident_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    run("teacher_throughput", measure)
