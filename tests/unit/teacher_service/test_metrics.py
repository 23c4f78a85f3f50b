"""Counters as they are fed, gauges as they are read, and the endpoint that shows them."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seq2seq.errors import UserError
from teacher_service.batching import BatchLimits, Entry, Request
from teacher_service.caches import ENTRY_BYTES, ByteCache
from teacher_service.engine import Engine, Lane
from teacher_service.metrics import PHASES, Metrics, reason_of, serve_metrics
from teacher_service.refusals import Expired, InvalidRequest, QueueFull, TooLarge
from teacher_service.reports import CallReport


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def lane_values(metrics: Metrics, *names: str) -> list[float | None]:
    return [value(metrics, f"teacher_{name}", lane="score") for name in names]


WAITING = ("queue_requests", "queue_tokens", "queue_oldest_seconds", "reply_bytes")


def engine_of(clock: Clock, metrics: Metrics, run: Any) -> Engine:
    limits = BatchLimits(batch_tokens=40, queue_requests=3, overhead_tokens=1000)
    engine = Engine([Lane("score", limits, run, clock)], clock, metrics.batch_done)
    metrics.watch_engine(engine)
    return engine


def request(*lengths: int) -> Request:
    entries = [Entry(n, 2 * n, n, i) for i, n in enumerate(lengths)]
    return Request(entries, "g", reply_bytes=100 * len(entries))


def test_gauges_are_exact_under_saturation_and_zero_after(clock, metrics):
    engine = engine_of(clock, metrics, lambda group, items: list(items))
    assert lane_values(metrics, *WAITING) == [0, 0, 0, 0]
    waiting = []
    for lengths in ([4, 4], [5], [6, 1, 1]):
        clock.now += 1.0
        waiting.append(request(*lengths))
        engine.submit("score", waiting[-1])
    with pytest.raises(QueueFull):
        engine.submit("score", request(1))
    assert lane_values(metrics, *WAITING) == [3, 3 * 21, 2, 600]
    engine.close("score", waiting[1])
    assert lane_values(metrics, *WAITING) == [2, 3 * 16, 2, 500]
    while engine.step() == 0.0:
        pass
    # Computed, but not handed over before they are closed.
    assert lane_values(metrics, *WAITING) == [0, 0, 0, 500]
    for held in waiting:
        engine.close("score", held)
    assert lane_values(metrics, *WAITING) == [0, 0, 0, 0]


def test_every_admitted_sequence_ends_exactly_once(clock, metrics):
    def run(group: Any, items: Any) -> list[Any]:
        clock.now += 0.5
        if 7 in items:
            raise ValueError
        return list(items)

    engine = engine_of(clock, metrics, run)
    late = request(3, 3)
    late.deadline = 1.0
    cancelled, good = request(5, 5, 5), request(7, 2, 2)
    for each in (late, cancelled, good):
        engine.submit("score", each)
    clock.now = 2.0
    engine.close("score", cancelled)
    while engine.step() == 0.0:
        pass
    ends = {
        end: value(metrics, "teacher_sequences_total", lane="score", end=end)
        for end in ("computed", "failed", "dropped")
    }
    assert ends == {"computed": 2, "failed": 1, "dropped": 5}


def test_a_batch_is_counted_with_its_padding(clock, metrics):
    def run(group: Any, items: Any) -> list[Any]:
        clock.now += 0.25
        return list(items)

    engine = engine_of(clock, metrics, run)
    engine.submit("score", request(1, 4))
    clock.now += 0.5
    engine.step()
    assert lane_values(metrics, "batch_sequences_sum", "batch_sequences_count") == [2, 1]
    assert lane_values(metrics, "batch_tokens_sum", "tokens_total") == [24, 15]
    assert lane_values(metrics, "batch_padding_ratio_sum") == [1 - 15 / 24]
    assert lane_values(metrics, "compute_seconds_total") == [0.25]
    assert lane_values(metrics, "queue_seconds_sum", "queue_seconds_count") == [0.5, 1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QueueFull("x"), "queue_full"),
        (Expired("x"), "expired"),
        (TooLarge("x"), "too_large"),
        (InvalidRequest("f", "x"), "invalid_request"),
        (RuntimeError("a defect"), "internal"),
    ],
)
def test_a_rejection_is_named_after_its_kind(metrics, error, reason):
    assert reason_of(error) == reason
    metrics.call_ended(CallReport("Score", "top_k", "ABORTED", 0.01, error))
    assert value(metrics, "teacher_rejections_total", reason=reason) == 1


def test_calls_are_counted_by_method_mode_and_code(metrics):
    for _ in range(3):
        metrics.call_ended(CallReport("Score", "top_k", "OK", 0.02))
    metrics.call_ended(CallReport("Generate", "beam", "CANCELLED", 1.0))
    counted = {"method": "Score", "mode": "top_k", "code": "OK"}
    assert value(metrics, "teacher_requests_total", **counted) == 3
    assert value(metrics, "teacher_request_seconds_sum", method="Generate") == 1.0
    assert value(metrics, "teacher_rejections_total", reason="internal") is None


def test_caches_are_read_when_asked(metrics):
    cache: ByteCache[str, str] = ByteCache(2000)
    metrics.watch_caches({"score": cache})
    for key in "abcdef":
        cache.put(key, key, 500)
    cache.get("f"), cache.get("a"), cache.get("b")
    found = {
        name: value(metrics, f"teacher_cache_{name}", cache="score")
        for name in (
            "hits_total",
            "misses_total",
            "evictions_total",
            "bytes",
            "budget_bytes",
            "entries",
        )
    }
    assert found == {
        "hits_total": 1,
        "misses_total": 2,
        "evictions_total": 4,
        "bytes": 2 * (500 + ENTRY_BYTES),
        "budget_bytes": 2000,
        "entries": 2,
    }


def test_one_phase_at_a_time(metrics):
    metrics.phase("draining")
    found = {p: value(metrics, "teacher_phase", teacher_phase=p) for p in PHASES}
    assert found == {"loading": 0, "serving": 0, "draining": 1}


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    families = text_string_to_metric_families(text)
    return {s.name: s.value for f in families for s in f.samples if "lane" not in s.labels}


def test_two_servers_in_one_process_show_their_own(metrics):
    other = Metrics()
    metrics.phase("serving")
    metrics.call_ended(CallReport("Score", "full", "OK", 0.1))
    shown = [serve_metrics(each, "127.0.0.1", 0) for each in (metrics, other)]
    try:
        first, second = (scrape(address) for _, address in shown)
    finally:
        for server, _ in shown:
            server.shutdown()
            server.server_close()
    assert first["teacher_requests_total"] == 1
    assert "teacher_requests_total" not in second
    assert first["process_resident_memory_bytes"] > 0


def test_a_taken_metrics_port_is_one_clear_line(metrics):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot show metrics on 127.0.0.1:{port}: Address"):
            serve_metrics(metrics, "127.0.0.1", port)
