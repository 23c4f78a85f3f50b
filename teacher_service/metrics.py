"""What a server tells Prometheus. No torch, no gRPC.

Counts and histograms are fed as things happen; gauges are read from what they describe when
somebody asks, so they are exact at that moment. Every server has a registry of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Histogram,
    Info,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from seq2seq.errors import UserError
from teacher_service.bind_address import joined
from teacher_service.caches import ByteCache
from teacher_service.engine import Engine
from teacher_service.refusals import Refusal
from teacher_service.reports import BatchReport, CallReport
from teacher_service.work import Identity

Cache = ByteCache[Any, Any]

PHASES = ("loading", "serving", "draining")

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metrics:
    """The counters of one server.

    Attributes:
        registry: what the endpoint shows.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "teacher_requests",
            "Calls ended, by method, mode (payload kind or decoding) and gRPC status.",
            ("method", "mode", "code"),
            registry=registry,
        )
        self._request_s = Histogram(
            "teacher_request_seconds",
            "From a call's arrival to its end, by method.",
            ("method",),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._rejections = Counter(
            "teacher_rejections", "Calls refused or failed, by reason.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self._sequences = Counter(
            "teacher_sequences",
            "Admitted sequences by what became of them: computed, failed, dropped.",
            ("lane", "end"),
            registry=registry,
        )
        self._queue_s = Histogram(
            "teacher_queue_seconds",
            "From admission until the model took a batch with sequences of the request.",
            ("lane",),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._compute_s = Counter(
            "teacher_compute_seconds", "Time of the model.", ("lane",), registry=registry
        )
        self._batch_sequences = Histogram(
            "teacher_batch_sequences", "Sequences in a batch.", ("lane",),
            buckets=_SEQUENCES, registry=registry,
        )  # fmt: skip
        self._batch_tokens = Histogram(
            "teacher_batch_tokens", "Padded source and target ids of a batch.", ("lane",),
            buckets=_TOKENS, registry=registry,
        )  # fmt: skip
        self._padding = Histogram(
            "teacher_batch_padding_ratio", "Share of a batch that is padding.", ("lane",),
            buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self._real_tokens = Counter(
            "teacher_tokens", "Source and target ids computed, padding excluded.", ("lane",),
            registry=registry,
        )  # fmt: skip
        self._phase = Enum(
            "teacher_phase", "Where the server is in its life.", states=PHASES, registry=registry
        )

    def phase(self, name: str) -> None:
        """One of :data:`PHASES`."""
        self._phase.state(name)

    def call_ended(self, call: CallReport) -> None:
        """A call has its status."""
        self._requests.labels(call.method, call.mode, call.code).inc()
        self._request_s.labels(call.method).observe(call.seconds)
        if call.error is not None:
            self._rejections.labels(reason_of(call.error)).inc()

    def batch_done(self, report: BatchReport) -> None:
        """The model is done with a batch, or with what was dropped instead."""
        lane = report.lane
        for end, count in report.ends.items():
            self._sequences.labels(lane, end).inc(count)
        if not report.sequences:
            return
        for seconds in report.queue_seconds:
            self._queue_s.labels(lane).observe(seconds)
        self._compute_s.labels(lane).inc(report.compute_seconds)
        self._batch_sequences.labels(lane).observe(report.sequences)
        self._batch_tokens.labels(lane).observe(report.padded_tokens)
        self._padding.labels(lane).observe(1 - report.real_tokens / report.padded_tokens)
        self._real_tokens.labels(lane).inc(report.real_tokens)

    def watch_engine(self, engine: Engine) -> None:
        """Show what waits."""
        self.registry.register(_OnDemand(lambda: _queues(engine)))

    def watch_caches(self, caches: Mapping[str, Cache]) -> None:
        """Show what is kept, and how often it helped."""
        self.registry.register(_OnDemand(lambda: _caches(caches)))

    def model(self, identity: Identity, device: str, dtype: str) -> None:
        """Show which model is served."""
        info = Info("teacher_model", "The model served.", registry=self.registry)
        info.info(
            {
                "name": identity.name,
                "revision": identity.revision,
                "fingerprint": identity.fingerprint,
                "parameters": str(identity.parameters),
                "device": device,
                "dtype": dtype,
            }
        )


def reason_of(error: Exception) -> str:
    """``QueueFull`` -> ``queue_full``; what is no refusal is a defect: ``internal``."""
    if not isinstance(error, Refusal):
        return "internal"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def serve_metrics(
    metrics: Metrics,
    host: str,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
) -> tuple[WSGIServer, str]:
    """Answer scrapes on a thread until the server given back is shut down.

    Returns:
        The server, and its address with the port that was taken.

    Raises:
        UserError: the address is taken or not ours.
    """
    try:
        server, _ = start_http_server(
            port,
            host,
            metrics.registry,
            certfile=None if certificate is None else str(certificate),
            keyfile=None if key is None else str(key),
            client_cafile=None if client_ca is None else str(client_ca),
            client_auth_required=client_ca is not None,
        )
    except OSError as error:
        raise UserError(
            f"cannot show metrics on {host}:{port}: {error.strerror or error}; choose another "
            "--metrics-address (port 0 picks a free one)"
        ) from error
    return server, joined(host, server.server_port)


class _OnDemand(Collector):
    """Metrics read when somebody asks."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()


def _queues(engine: Engine) -> Iterator[Metric]:
    requests = GaugeMetricFamily("teacher_queue_requests", "Requests waiting.", labels=["lane"])
    tokens = GaugeMetricFamily("teacher_queue_tokens", "Ids waiting.", labels=["lane"])
    oldest = GaugeMetricFamily(
        "teacher_queue_oldest_seconds", "How long the oldest has waited so far.", labels=["lane"]
    )
    reply_bytes = GaugeMetricFamily(
        "teacher_reply_bytes", "Tensors of replies not handed over yet.", labels=["lane"]
    )
    for lane, (held_requests, held_tokens, held_bytes) in engine.waiting().items():
        requests.add_metric([lane], held_requests)
        tokens.add_metric([lane], held_tokens)
        reply_bytes.add_metric([lane], held_bytes)
    for lane, seconds in engine.waited().items():
        oldest.add_metric([lane], seconds)
    yield from (requests, tokens, oldest, reply_bytes)


def _caches(caches: Mapping[str, Cache]) -> Iterator[Metric]:
    counts = {
        "hits": "Found.",
        "misses": "Not found.",
        "evictions": "Dropped for room.",
    }
    for name, text in counts.items():
        family = CounterMetricFamily(f"teacher_cache_{name}", text, labels=["cache"])
        for cache, held in caches.items():
            family.add_metric([cache], getattr(held, name))
        yield family
    gauges: dict[str, tuple[str, Callable[[Cache], int]]] = {
        "bytes": ("Kept now.", lambda cache: cache.held),
        "budget_bytes": ("May be kept.", lambda cache: cache.budget),
        "entries": ("Values kept now.", len),
    }
    for name, (text, read) in gauges.items():
        gauge = GaugeMetricFamily(f"teacher_cache_{name}", text, labels=["cache"])
        for cache, held in caches.items():
            gauge.add_metric([cache], read(held))
        yield gauge
