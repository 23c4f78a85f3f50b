"""The one thread that runs the model, fed by one batcher for each kind of work (lane).

Consumes: admitted requests. Waits for: the first lane whose batch is ready. Unblocked by: a request
coming in, a delay running out, ``stop``. Lanes share the model by time: of those that are ready the
one that has had less of it goes next, so long generations never starve scoring. No torch, no gRPC.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from teacher_service.batching import Batcher, BatchLimits, Entry, Request
from teacher_service.refusals import Expired, ModelFailed, NonFiniteOutput, QueueFull
from teacher_service.reports import BatchReport

_log = logging.getLogger("teacher_service")

MODEL_THREAD = "teacher-model"

Run = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Outcome:
    """What became of one entry.

    Attributes:
        index: its place in the request.
        value: the model's result, or None with ``error``.
        queue_seconds: from admission until the model took it.
        compute_seconds: of the forward passes it was in.
    """

    index: int
    value: Any = None
    error: Exception | None = None
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Lane:
    """One kind of work: its queue, and the function that does a batch of it.

    Args:
        run: ``run(group, items) -> results``, one for each item, in order.
        asks: ``run`` takes many steps, and a third argument: ``wanted() -> bool``, to be asked
            between them. Once that says no, what it raises is nobody's fault.
    """

    def __init__(
        self,
        name: str,
        limits: BatchLimits,
        run: Run,
        clock: Callable[[], float] = time.monotonic,
        *,
        asks: bool = False,
    ) -> None:
        self.name = name
        self.batcher = Batcher(limits, clock, name)
        self.run, self.asks = run, asks
        self.used_s = 0.0
        self.tokens_per_s = 0.0

    def pushback_s(self) -> float:
        """When there will be room: the time to work off half the queue at the present pace."""
        if self.tokens_per_s <= 0:
            return 0.1
        return min(5.0, max(0.01, 0.5 * self.batcher.tokens / self.tokens_per_s))


class Engine:
    """Owns lanes, lock and thread.

    Args:
        report: told of every batch whose results were delivered, and of what is dropped, on the
            thread that did it.
        examine: raises where the model computes nothing any more; asked, on the model's thread,
            after a batch of which all sequences failed.
        broken: told, once, what ``examine`` raised.

    ``submit`` and ``close`` may be called from any thread. ``deliver`` of a request is called on
    the engine's thread, with a list of outcomes, as often as there are batches with entries of it.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[BatchReport], None] | None = None,
        examine: Callable[[], None] = lambda: None,
        broken: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self._report = report or (lambda _: None)
        self._examine, self._broken = examine, broken
        self._is_broken = False
        self._lanes = {lane.name: lane for lane in lanes}
        self._clock = clock
        self._wake = threading.Condition()
        self._stopping = False
        # What the lane served last had used: where a lane that wakes up joins the others.
        self._served_s = 0.0
        self._thread = threading.Thread(target=self._loop, name=MODEL_THREAD, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop after the batch in hand; False if that takes longer than ``timeout_s``."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, lane_name: str, request: Request) -> None:
        """Admit a request.

        Raises:
            TooLarge, QueueFull: see :meth:`Batcher.offer`.
        """
        lane = self._lanes[lane_name]
        with self._wake:
            was_idle = len(lane.batcher) == 0
            try:
                lane.batcher.offer(request)
            except QueueFull as full:
                full.pushback_s = lane.pushback_s()
                raise
            if was_idle:
                # A lane that was idle has no claim on time it did not ask for.
                lane.used_s = max(lane.used_s, self._served_s)
            self._wake.notify_all()

    def close(self, lane_name: str, request: Request) -> int:
        """Forget a request, answered or given up; what still waits is never computed."""
        with self._wake:
            dropped = self._lanes[lane_name].batcher.close(request)
        if dropped:
            self._report(BatchReport(lane_name, {"dropped": dropped}))
        return dropped

    def waiting(self) -> dict[str, tuple[int, int, int]]:
        """Per lane: requests, ids and reply bytes held now."""
        with self._wake:
            return {
                name: (lane.batcher.requests, lane.batcher.tokens, lane.batcher.reply_bytes)
                for name, lane in self._lanes.items()
            }

    def waited(self) -> dict[str, float]:
        """Per lane: seconds that the oldest sequence has waited so far."""
        with self._wake:
            return {name: lane.batcher.oldest_s() for name, lane in self._lanes.items()}

    def step(self) -> float | None:
        """Run one batch if one is ready.

        Returns:
            0 after a batch; otherwise seconds until one is ready, None while nothing waits.
        """
        with self._wake:
            lane, wait = self._next()
            if lane is None:
                return wait
            self._served_s = max(self._served_s, lane.used_s)
            batch = lane.batcher.take()
            taken_at = self._clock()
        _deliver([(entry, Outcome(entry.index, error=_expired())) for entry in batch.expired])
        if batch.expired:
            self._report(BatchReport(lane.name, {"dropped": len(batch.expired)}))
        if batch.entries:
            done = self._compute(lane, batch.entries, taken_at)
            spent = self._clock() - taken_at
            with self._wake:
                lane.used_s += spent
                if done and spent > 0:
                    pace = sum(entry.tokens for entry, _ in done) / spent
                    weight = 0.2 if lane.tokens_per_s else 1.0
                    lane.tokens_per_s += weight * (pace - lane.tokens_per_s)
            if done and all(outcome.error is not None for _, outcome in done):
                self._look_at_the_model()
            _deliver(done)
            self._report(_report(lane.name, batch.entries, done, taken_at, spent))
        return 0.0

    def _look_at_the_model(self) -> None:
        """Tell a model that is broken from requests that are."""
        if self._is_broken:
            return
        try:
            self._examine()
        except Exception as error:  # whatever a model raises
            self._is_broken = True
            self._broken(error)

    def _loop(self) -> None:
        while True:
            wait = self.step()
            with self._wake:
                if self._stopping:
                    return
                if wait != 0.0:
                    # A request may have come in since step looked.
                    lane, wait = self._next()
                    if lane is None:
                        self._wake.wait(wait)

    def _next(self) -> tuple[Lane | None, float | None]:
        """The ready lane that has used the model least; else the shortest wait."""
        waits = [(lane.batcher.ready_in(), lane) for lane in self._lanes.values()]
        ready = [lane for wait, lane in waits if wait == 0.0]
        if ready:
            return min(ready, key=lambda lane: lane.used_s), 0.0
        return None, min((wait for wait, _ in waits if wait is not None), default=None)

    def _compute(
        self, lane: Lane, entries: Sequence[Entry], taken_at: float
    ) -> list[tuple[Entry, Outcome]]:
        """Results of a batch; a failing batch is halved until the one at fault fails alone."""
        entries = [entry for entry in entries if not entry.request.closed]
        if not entries:
            return []
        group: Hashable = entries[0].request.group
        started = self._clock()

        def wanted() -> bool:
            return not all(entry.request.closed for entry in entries)

        try:
            asking = (wanted,) if lane.asks else ()
            values = lane.run(group, [entry.item for entry in entries], *asking)
            if len(values) != len(entries):
                raise RuntimeError(f"{len(entries)} items but {len(values)} results")
        except Exception as error:  # whatever a model raises must fail its own request only
            if not wanted():
                return []
            if len(entries) == 1:
                return [(entries[0], Outcome(entries[0].index, error=_incident(error)))]
            half = len(entries) // 2
            return [
                *self._compute(lane, entries[:half], taken_at),
                *self._compute(lane, entries[half:], taken_at),
            ]
        seconds = self._clock() - started
        return [
            (
                entry,
                Outcome(
                    entry.index,
                    value,
                    queue_seconds=taken_at - entry.request.enqueued_at,
                    compute_seconds=seconds,
                ),
            )
            for entry, value in zip(entries, values, strict=True)
        ]


def _deliver(done: Sequence[tuple[Entry, Outcome]]) -> None:
    """Hand each request its outcomes of this batch in one call."""
    by_request: dict[int, tuple[Request, list[Outcome]]] = {}
    for entry, outcome in done:
        by_request.setdefault(id(entry.request), (entry.request, []))[1].append(outcome)
    for request, outcomes in by_request.values():
        if request.deliver is not None and not request.closed:
            request.deliver(outcomes)


def _report(
    lane: str,
    entries: Sequence[Entry],
    done: Sequence[tuple[Entry, Outcome]],
    taken_at: float,
    spent: float,
) -> BatchReport:
    failed = sum(outcome.error is not None for _, outcome in done)
    requests = {id(entry.request): entry.request for entry in entries}
    longest = max(e.source_length for e in entries) + max(e.target_length for e in entries)
    return BatchReport(
        lane,
        {
            "computed": len(done) - failed,
            "failed": failed,
            "dropped": len(entries) - len(done),
        },
        [taken_at - request.enqueued_at for request in requests.values()],
        spent,
        len(entries),
        sum(entry.tokens for entry in entries),
        len(entries) * longest,
    )


def _expired() -> Expired:
    return Expired("the deadline passed while the request waited; allow more time or add a replica")


def _incident(error: Exception) -> ModelFailed:
    incident = f"incident-{secrets.token_hex(6)}"
    _log.error("%s: %s: %s", incident, type(error).__name__, error, exc_info=error)
    return ModelFailed(incident, str(error) if isinstance(error, NonFiniteOutput) else "")
