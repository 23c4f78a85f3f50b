"""The batcher's contract by name; a hand-moved clock, no model, no thread."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from teacher_service.batching import Batcher, BatchLimits, Entry, Request
from teacher_service.refusals import QueueFull, TooLarge

LIMITS = BatchLimits(batch_tokens=100, overhead_tokens=1000, lookahead=64, max_skips=2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request(*lengths: int, group: str = "g", deadline: float = float("inf"), size: int = 0):
    entries = [Entry(n, n, f"{n}", i) for i, n in enumerate(lengths)]
    return Request(entries, group, deadline=deadline, reply_bytes=size)


def offered(batcher: Batcher, *lengths: int, **more) -> Request:
    made = request(*lengths, **more)
    batcher.offer(made)
    return made


def lengths(entries: list[Entry]) -> list[int]:
    return [entry.source_length for entry in entries]


def test_refuses_a_sequence_over_the_batch_budget_at_the_door(clock):
    batcher = Batcher(LIMITS, clock)
    with pytest.raises(TooLarge, match=r"sequence 1 costs 102 ids .*budget of 100"):
        batcher.offer(request(3, 51))
    assert (batcher.requests, batcher.tokens, len(batcher)) == (0, 0, 0)


def test_takes_a_sequence_of_exactly_the_budget(clock):
    batcher = Batcher(LIMITS, clock)
    offered(batcher, 50)
    assert lengths(batcher.take().entries) == [50]


def test_refuses_for_ever_what_an_empty_queue_could_not_hold(clock):
    batcher = Batcher(replace(LIMITS, queue_tokens=50), clock)
    with pytest.raises(TooLarge, match=r"60 ids, more than the 50"):
        batcher.offer(request(10, 10, 10))


@pytest.mark.parametrize(
    ("bounds", "size"),
    [({"queue_requests": 2}, 0), ({"queue_tokens": 50}, 0), ({"queue_bytes": 25}, 10)],
)
def test_queue_full_by_requests_by_ids_or_by_reply_bytes(clock, bounds, size):
    batcher = Batcher(replace(LIMITS, **bounds), clock, "score")
    offered(batcher, 10, size=size)
    offered(batcher, 10, size=size)
    with pytest.raises(QueueFull, match="the score queue is full"):
        batcher.offer(request(10, size=size))
    assert batcher.requests == 2
    assert len(batcher) == 2


def test_a_refused_request_leaves_no_trace(clock):
    batcher = Batcher(replace(LIMITS, queue_requests=1), clock)
    offered(batcher, 10)
    refused = request(10)
    with pytest.raises(QueueFull):
        batcher.offer(refused)
    assert batcher.close(refused) == 0
    assert (batcher.requests, batcher.tokens) == (1, 20)


def test_after_a_full_queue_the_next_wave_gets_full_capacity(clock):
    batcher = Batcher(replace(LIMITS, queue_requests=3, queue_bytes=30), clock)
    for _ in range(2):
        wave = [offered(batcher, 10, size=10) for _ in range(3)]
        with pytest.raises(QueueFull):
            batcher.offer(request(10))
        while batcher.take().entries:
            pass
        for done in wave:
            batcher.close(done)
    assert (batcher.requests, batcher.tokens, batcher.reply_bytes, len(batcher)) == (0, 0, 0, 0)


def test_never_exceeds_the_padded_budget(clock):
    batcher = Batcher(LIMITS, clock)
    offered(batcher, *[10] * 12)
    sizes = []
    while batch := batcher.take().entries:
        sizes.append(len(batch))
        assert len(batch) * 2 * max(lengths(batch)) <= 100
    assert sizes == [5, 5, 2]


def test_source_and_target_pad_separately(clock):
    batcher = Batcher(LIMITS, clock)
    batcher.offer(Request([Entry(40, 5, "a", 0), Entry(5, 40, "b", 1)], "g"))
    # Each costs 45 alone; together they would pad to 2 * (40 + 40).
    assert [entry.item for entry in batcher.take().entries] == ["a"]


def test_splits_a_large_request_and_mixes_small_ones(clock):
    batcher = Batcher(LIMITS, clock)
    large, small = offered(batcher, *[10] * 7), offered(batcher, 10, 10)
    first, second = batcher.take().entries, batcher.take().entries
    assert {entry.request for entry in first} == {large}
    assert {entry.request for entry in second} == {large, small}


def test_prefers_the_nearest_lengths(clock):
    batcher = Batcher(LIMITS, clock)
    offered(batcher, 10, 16, 11, 17, 9, 12, 10)
    assert sorted(lengths(batcher.take().entries)) == [9, 10, 10, 11]


def test_leaves_out_what_would_cost_more_in_padding_than_it_saves(clock):
    batcher = Batcher(replace(LIMITS, batch_tokens=1000, overhead_tokens=10), clock)
    offered(batcher, 2, 2, 2, 90)
    assert lengths(batcher.take().entries) == [2, 2, 2]


def test_pads_where_starting_another_batch_would_cost_more(clock):
    batcher = Batcher(replace(LIMITS, batch_tokens=1000, overhead_tokens=5000), clock)
    offered(batcher, 2, 2, 2, 90)
    assert lengths(batcher.take().entries) == [2, 2, 2, 90]


def test_groups_never_share_a_batch(clock):
    batcher = Batcher(LIMITS, clock)
    offered(batcher, 5, group="a")
    offered(batcher, 5, group="b")
    offered(batcher, 5, group="a")
    groups = []
    while batch := batcher.take().entries:
        groups.append([entry.request.group for entry in batch])
    assert groups == [["a", "a"], ["b"]]


def test_looks_no_further_than_the_lookahead(clock):
    batcher = Batcher(replace(LIMITS, lookahead=2), clock)
    offered(batcher, 10, 40, 10, 10)
    assert lengths(batcher.take().entries) == [10]


def test_never_passes_an_entry_over_more_than_max_skips_times(clock):
    draw = random.Random(1)
    batcher = Batcher(replace(LIMITS, max_skips=2, lookahead=16), clock)
    passed: dict[Entry, int] = {}
    order: dict[Entry, int] = {}
    waiting: list[Entry] = []
    for _ in range(400):
        for _ in range(draw.randint(0, 3)):
            made = offered(batcher, draw.randint(1, 50), group=draw.choice("ab"))
            order[made.entries[0]] = len(order)
            waiting += made.entries
        batch = batcher.take().entries
        if not batch:
            continue
        youngest = max(order[entry] for entry in batch)
        waiting = [entry for entry in waiting if entry not in batch]
        for entry in waiting:
            if order[entry] < youngest:
                passed[entry] = passed.get(entry, 0) + 1
    assert passed
    assert max(passed.values()) == 2


def test_the_oldest_is_always_in_the_next_batch(clock):
    draw = random.Random(2)
    batcher = Batcher(LIMITS, clock)
    waiting: list[Entry] = []
    for _ in range(200):
        made = offered(batcher, *[draw.randint(1, 50) for _ in range(draw.randint(1, 4))])
        waiting += made.entries
        batch = batcher.take().entries
        assert waiting[0] in batch
        waiting = [entry for entry in waiting if entry not in batch]


def test_an_idle_model_starts_at_once(clock):
    batcher = Batcher(LIMITS, clock)
    assert batcher.ready_in() is None
    offered(batcher, 1)
    assert batcher.ready_in() == 0.0


def test_never_waits_to_be_full(clock):
    """However little waits, the delay is the longest it can take."""
    batcher = Batcher(replace(LIMITS, max_delay_s=0.5), clock)
    waits = []
    for _ in range(12):
        offered(batcher, 1)
        waits.append(batcher.ready_in())
        if waits[-1] == 0.0:
            assert batcher.take().entries
        clock.now += 0.2
    assert waits == pytest.approx([0.5, 0.3, 0.1, 0.0] * 3)


def test_a_delay_ends_with_time_or_with_a_full_batch(clock):
    batcher = Batcher(replace(LIMITS, max_delay_s=0.002), clock)
    offered(batcher, 10)
    assert batcher.ready_in() == pytest.approx(0.002)
    clock.now = 0.0015
    assert batcher.ready_in() == pytest.approx(0.0005)
    offered(batcher, 40)
    assert batcher.ready_in() == 0.0
    assert lengths(batcher.take().entries) == [10]
    assert batcher.ready_in() == pytest.approx(0.002)  # the other came in at 0.0015
    clock.now = 0.0035
    assert batcher.ready_in() == 0.0


def test_expired_entries_come_out_as_expired_only(clock):
    batcher = Batcher(LIMITS, clock)
    late = offered(batcher, 5, 6, deadline=1.0)
    offered(batcher, 7, deadline=3.0)
    clock.now = 1.0
    batch = batcher.take()
    assert batch.expired == list(late.entries)
    assert lengths(batch.entries) == [7]
    assert (batcher.requests, batcher.tokens) == (0, 0)


def test_a_queue_of_expired_entries_does_not_hide_a_live_one(clock):
    batcher = Batcher(replace(LIMITS, lookahead=2), clock)
    offered(batcher, 5, 5, 5, 5, 5, deadline=1.0)
    offered(batcher, 7)
    clock.now = 2.0
    batch = batcher.take()
    assert len(batch.expired) == 5
    assert lengths(batch.entries) == [7]


def test_closed_requests_never_come_out_and_are_counted_exactly(clock):
    batcher = Batcher(LIMITS, clock)
    gone, kept = offered(batcher, 10, 20, size=5), offered(batcher, 10, size=7)
    assert batcher.close(gone) == 2
    assert batcher.close(gone) == 0
    assert (batcher.requests, batcher.tokens, batcher.reply_bytes) == (1, 20, 7)
    assert batcher.take().entries == list(kept.entries)


def test_closing_a_half_computed_request_drops_the_rest(clock):
    batcher = Batcher(LIMITS, clock)
    half = offered(batcher, *[10] * 7, size=3)
    assert len(batcher.take().entries) == 5
    assert (batcher.requests, batcher.tokens, batcher.reply_bytes) == (1, 40, 3)
    assert batcher.close(half) == 2
    assert (batcher.requests, batcher.tokens, batcher.reply_bytes) == (0, 0, 0)
    assert batcher.take().entries == []


def test_every_entry_comes_out_exactly_once(clock):
    draw = random.Random(3)
    batcher = Batcher(LIMITS, clock)
    made = [
        offered(batcher, *[draw.randint(1, 50) for _ in range(5)], group=draw.choice("abc"))
        for _ in range(60)
    ]
    out: list[Entry] = []
    while batch := batcher.take().entries:
        out += batch
    assert len(out) == len(set(map(id, out))) == 300
    assert {id(e) for e in out} == {id(e) for r in made for e in r.entries}
    assert (batcher.requests, batcher.tokens) == (0, 0)


def test_requests_kept_separate_never_share_a_batch_and_do_not_change_each_other(clock):
    limits = replace(LIMITS, separate_requests=True, lookahead=4)
    mine = (3, 9, 4, 10, 3, 8)

    def batches(*others: int) -> list[list[int]]:
        batcher = Batcher(limits, clock)
        for n in others:
            offered(batcher, n, n)
        asked = offered(batcher, *mine)
        offered(batcher, 4, 5)
        taken = []
        while len(batcher):
            entries = batcher.take().entries
            assert len({id(e.request) for e in entries}) == 1
            if entries[0].request is asked:
                taken.append(lengths(entries))
        return taken

    assert batches() == batches(3) == batches(7, 2, 9)
    assert sorted(n for batch in batches() for n in batch) == sorted(mine)
