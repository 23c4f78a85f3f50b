"""Which waiting sequences share the next forward pass. No model, no network, no thread, no torch.

A request is a handful of sequences (entries) admitted or refused as one; entries are batched one by
one, so a large request is spread over batches and several small ones share one. Contract, each line
a test by name:

* cost of a batch is padded tokens: ``n * (longest source + longest target)``, at most the budget;
* an idle model may start at once (or after ``max_delay_s`` where a batch is under budget);
* the oldest entry is always in the next batch; nearest lengths among the look-ahead join it, as
  many as make a token cheapest;
* entries of two requests never share a batch where requests are to be kept separate;
* no entry is passed over by younger ones in more than ``max_skips`` batches;
* closed requests and expired entries never come out;
* what could never be admitted is refused as too large, what does not fit now as queue full.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from teacher_service.refusals import QueueFull, TooLarge


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch and a queue may grow.

    Attributes:
        batch_tokens: padded source and target ids in one batch.
        overhead_tokens: what starting a batch costs, in padded tokens. Padding is worth it while it
            makes a token of the batch cheaper: ``(overhead + padded) / real``.
        lookahead: entries from the oldest on that may be considered.
        max_skips: batches in which younger entries may pass an older one over.
        max_delay_s: how long an under-budget batch may wait for company.
        queue_requests, queue_tokens, queue_bytes: bounds of what waits: requests, unpadded ids, and
            bytes of tensors in replies not yet handed over.
        separate_requests: no batch holds entries of two requests, so that what a request is
            batched with depends on nothing but itself.
    """

    batch_tokens: int
    overhead_tokens: int = 512
    lookahead: int = 256
    max_skips: int = 4
    max_delay_s: float = 0.0
    queue_requests: int = 1024
    queue_tokens: int = 1 << 20
    queue_bytes: int = 512 << 20
    separate_requests: bool = False


@dataclass(eq=False)
class Entry:
    """One sequence of a request.

    Attributes:
        source_length, target_length: ids; they make its cost.
        item: what the model is given.
        index: its place in the request.
    """

    source_length: int
    target_length: int
    item: Any
    index: int
    request: Request = field(init=False, repr=False)
    skips: int = field(default=0, init=False)

    @property
    def tokens(self) -> int:
        """Unpadded ids."""
        return self.source_length + self.target_length


@dataclass(eq=False)
class Request:
    """Entries admitted together.

    Attributes:
        group: only entries of equal groups share a batch.
        deadline: on the batcher's clock; ``inf`` for none.
        reply_bytes: size of the reply's tensors; held until the request is closed.
        deliver: what to do with results; not used by the batcher.
    """

    entries: Sequence[Entry]
    group: Hashable
    deadline: float = float("inf")
    reply_bytes: int = 0
    deliver: Callable[[Any], None] | None = None
    enqueued_at: float = field(default=0.0, init=False)
    waiting: int = field(default=0, init=False)
    admitted: bool = field(default=False, init=False)
    closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for entry in self.entries:
            entry.request = self

    @property
    def tokens(self) -> int:
        """Unpadded ids of all entries."""
        return sum(entry.tokens for entry in self.entries)


@dataclass(frozen=True)
class Batch:
    """What comes out: entries to compute, and entries whose deadline passed while they waited."""

    entries: list[Entry]
    expired: list[Entry]


class Batcher:
    """The bounded queue; not thread-safe, its owner holds a lock.

    Attributes:
        requests, tokens, reply_bytes: what waits now (reply bytes: what is not closed).
    """

    def __init__(
        self, limits: BatchLimits, clock: Callable[[], float] = time.monotonic, name: str = ""
    ) -> None:
        self.limits = limits
        self.requests = self.tokens = self.reply_bytes = 0
        self._clock = clock
        self._name = name
        self._queue: OrderedDict[int, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, request: Request) -> None:
        """Admit all entries of a request, or none.

        Raises:
            TooLarge: it could not be admitted into an empty queue either.
            QueueFull: it does not fit now.
        """
        limits, tokens = self.limits, request.tokens
        for entry in request.entries:
            if entry.tokens > limits.batch_tokens:
                raise TooLarge(
                    f"sequence {entry.index} costs {entry.tokens} ids (source and target, times "
                    f"beams), more than the {self._name} batch budget of {limits.batch_tokens}; "
                    "shorten it, or start the server with a larger budget"
                )
        bounds = (
            ("requests", self.requests, 1, limits.queue_requests),
            ("ids", self.tokens, tokens, limits.queue_tokens),
            ("reply bytes", self.reply_bytes, request.reply_bytes, limits.queue_bytes),
        )
        for unit, _, wanted, bound in bounds:
            if wanted > bound:
                raise TooLarge(
                    f"the request has {wanted} {unit}, more than the {bound} that may wait; "
                    "send fewer sequences in one request"
                )
        for unit, held, wanted, bound in bounds:
            if held + wanted > bound:
                raise QueueFull(
                    f"the {self._name} queue is full ({held} of {bound} {unit} waiting); "
                    "come back later or add a replica"
                )
        request.admitted = True
        request.enqueued_at = self._clock()
        request.waiting = len(request.entries)
        self.requests += 1 if request.entries else 0
        self.tokens += tokens
        self.reply_bytes += request.reply_bytes
        for entry in request.entries:
            self._queue[id(entry)] = entry

    def close(self, request: Request) -> int:
        """Forget a request, answered or cancelled; harmless when repeated.

        Returns:
            Number of its entries that were still waiting and will not be computed.
        """
        if request.closed:
            return 0
        request.closed = True
        if not request.admitted:
            return 0
        waiting = [entry for entry in request.entries if id(entry) in self._queue]
        for entry in waiting:
            self._leave(entry)
        self.reply_bytes -= request.reply_bytes
        return len(waiting)

    def oldest_s(self) -> float:
        """How long the oldest entry has waited so far; 0 where nothing waits."""
        if not self._queue:
            return 0.0
        return self._clock() - next(iter(self._queue.values())).request.enqueued_at

    def ready_in(self) -> float | None:
        """Seconds until :meth:`take` should be called: 0 for now, None while nothing waits."""
        if not self._queue:
            return None
        if self.tokens >= self.limits.batch_tokens:
            return 0.0
        oldest = next(iter(self._queue.values())).request
        return max(0.0, oldest.enqueued_at + self.limits.max_delay_s - self._clock())

    def take(self) -> Batch:
        """Remove and return the next batch; both lists are empty when nothing waits."""
        now = self._clock()
        expired: list[Entry] = []
        live: list[Entry] = []
        while not live and self._queue:
            window = list(islice(self._queue.values(), self.limits.lookahead))
            expired_now = [entry for entry in window if entry.request.deadline <= now]
            live = [entry for entry in window if entry.request.deadline > now]
            for entry in expired_now:
                self._leave(entry)
            expired += expired_now
        chosen = self._choose(live) if live else []
        for entry in chosen:
            self._leave(entry)
        return Batch(chosen, expired)

    def _leave(self, entry: Entry) -> None:
        del self._queue[id(entry)]
        self.tokens -= entry.tokens
        entry.request.waiting -= 1
        if entry.request.waiting == 0:
            self.requests -= 1

    def _choose(self, live: list[Entry]) -> list[Entry]:
        """The oldest, then every overdue one that fits, then the neighbours worth their padding."""
        shape = _Shape(self.limits)
        head = live[0]
        shape.add(head)
        chosen, young_end = [head], len(live)
        for place, entry in enumerate(live[1:], start=1):
            if entry.skips >= self.limits.max_skips:
                if not self._may_share(entry, head) or not shape.fits(entry):
                    young_end = place
                    break
                shape.add(entry)
                chosen.append(entry)
        taken = {id(entry) for entry in chosen}
        candidates = [
            entry
            for entry in live[1:young_end]
            if id(entry) not in taken and self._may_share(entry, head)
        ]
        candidates.sort(key=lambda e: _distance(e, head))
        chosen += self._worth_adding(shape, candidates)
        taken = {id(entry) for entry in chosen}
        youngest = max(place for place, entry in enumerate(live) if id(entry) in taken)
        for entry in live[:youngest]:
            if id(entry) not in taken:
                entry.skips += 1
        return chosen

    def _may_share(self, entry: Entry, head: Entry) -> bool:
        if self.limits.separate_requests:
            return entry.request is head.request
        return entry.request.group == head.request.group

    def _worth_adding(self, shape: _Shape, candidates: list[Entry]) -> list[Entry]:
        """The leading candidates that make a token of the batch cheapest."""
        added: list[Entry] = []
        best, best_count = shape.price(), 0
        for entry in candidates:
            if not shape.fits(entry):
                continue
            shape.add(entry)
            added.append(entry)
            if shape.price() <= best:
                best, best_count = shape.price(), len(added)
        return added[:best_count]


class _Shape:
    """Extent of a batch under construction."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self.count = self.source = self.target = self.real = 0

    def fits(self, entry: Entry) -> bool:
        source = max(self.source, entry.source_length)
        target = max(self.target, entry.target_length)
        return (self.count + 1) * (source + target) <= self._limits.batch_tokens

    def add(self, entry: Entry) -> None:
        self.count += 1
        self.source = max(self.source, entry.source_length)
        self.target = max(self.target, entry.target_length)
        self.real += entry.tokens

    def price(self) -> float:
        """Cost of a real token, in padded tokens."""
        padded = self.count * (self.source + self.target)
        return (self._limits.overhead_tokens + padded) / max(1, self.real)


def _distance(entry: Entry, head: Entry) -> int:
    return abs(entry.source_length - head.source_length) + abs(
        entry.target_length - head.target_length
    )
