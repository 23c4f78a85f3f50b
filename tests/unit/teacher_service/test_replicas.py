"""Which replica is asked next: health, openness, outstanding tokens; no network, no clock."""

from __future__ import annotations

import pytest

from teacher_service.addresses import Endpoint
from teacher_service.replicas import FIRST_WAIT_S, LONGEST_WAIT_S, Replica, Replicas


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fleet(clock: Clock, names: str = "abc") -> tuple[Replicas, list[Replica]]:
    replicas = Replicas(clock)
    joined, left = replicas.replace([Endpoint(name) for name in names])
    assert left == [] and [str(r) for r in joined] == list(names)
    return replicas, joined


def test_nobody_is_chosen_among_none(clock):
    replicas = Replicas(clock)
    assert replicas.choose() is None
    assert 0 < replicas.opens_in() < 1


def test_the_least_outstanding_tokens_come_first_not_the_fewest_calls(clock):
    replicas, (a, b, c) = fleet(clock)
    for replica, tokens in ((a, 500), (b, 100), (b, 100), (c, 300)):
        replicas.begin(replica, tokens)
    assert replicas.choose() is b
    replicas.begin(b, 200)
    assert replicas.choose() is c
    replicas.end(a, 500)
    assert replicas.choose() is a
    assert (a.outstanding, a.calls) == (0, 0) and (b.outstanding, b.calls) == (400, 3)


def test_equals_take_turns(clock):
    replicas, members = fleet(clock)
    order = []
    for _ in range(7):
        replica = replicas.choose()
        replicas.begin(replica, 10)
        replicas.end(replica, 10)
        order.append(replica)
    assert order == [*members, *members, members[0]]


def test_a_random_load_keeps_outstanding_tokens_level(clock):
    """Against the bound of greedy balancing: no two differ by more than the largest request."""
    import random

    draw = random.Random(0)
    replicas, members = fleet(clock)
    for _ in range(500):
        replicas.begin(replicas.choose(), draw.randint(1, 64))
    loads = [r.outstanding for r in members]
    assert max(loads) - min(loads) <= 64


def test_health_decides_before_load(clock):
    replicas, (a, b, c) = fleet(clock)
    replicas.heard(a, False)
    replicas.heard(b, True)
    replicas.begin(b, 10_000)
    assert replicas.choose() is b, "c has said nothing yet, a does not serve"
    replicas.heard(c, True)
    assert replicas.choose() is c


def test_where_nobody_serves_somebody_is_asked_all_the_same(clock):
    replicas, (a, b) = fleet(clock, "ab")
    for replica in (a, b):
        replicas.heard(replica, False)
    assert replicas.choose() is a


def test_one_left_alone_is_not_asked_until_its_time(clock):
    replicas, (a, b) = fleet(clock, "ab")
    replicas.leave_alone(a, 2.0)
    replicas.begin(b, 10_000)
    assert replicas.choose() is b
    replicas.leave_alone(b, 3.0)
    assert replicas.choose() is None
    assert replicas.opens_in() == pytest.approx(2.0)
    clock.now += 2.0
    assert replicas.choose() is a


def test_a_serving_one_left_alone_is_waited_for_rather_than_a_sick_one_asked(clock):
    replicas, (a, b) = fleet(clock, "ab")
    replicas.heard(a, True)
    replicas.heard(b, False)
    replicas.leave_alone(a, 0.5)
    assert replicas.choose() is None
    assert replicas.opens_in() == pytest.approx(0.5)


def test_the_avoided_one_comes_last_but_comes(clock):
    replicas, (a, b) = fleet(clock, "ab")
    replicas.begin(b, 100)
    assert replicas.choose(avoid={a}) is b
    replicas.leave_alone(b, 1.0)
    assert replicas.choose(avoid={a}) is a
    assert replicas.another_than({a}) and not replicas.another_than({a, b})


def test_backoff_grows_to_its_bound_and_ends_with_an_answer(clock):
    replicas, (a,) = fleet(clock, "a")
    waits = []
    for _ in range(9):
        replicas.stumbled(a)
        waits.append(replicas.opens_in())
        clock.now += waits[-1]
    assert waits[:3] == pytest.approx([FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S])
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S)
    replicas.answered(a)
    replicas.stumbled(a)
    assert replicas.opens_in() == pytest.approx(FIRST_WAIT_S)


def test_one_of_another_model_is_asked_again_only_after_it_was_away(clock):
    replicas, (a, b) = fleet(clock, "ab")
    for replica in (a, b):
        replicas.heard(replica, True)
    replicas.refuse(a)
    replicas.begin(b, 10_000)
    assert replicas.choose() is b and not replicas.all_refused
    replicas.heard(b, False)
    assert replicas.choose() is b, "better one that is away than one of another model"
    replicas.heard(a, False)
    replicas.heard(a, True)
    assert replicas.choose() is a and a.admitted is None
    replicas.refuse(a)
    replicas.refuse(b)
    assert replicas.all_refused and replicas.choose() is a


def test_clients_that_begin_together_begin_at_different_replicas(clock):
    draws = iter([0.2, 0.9, 0.5])
    replicas = Replicas(clock, lambda: next(draws))
    replicas.replace([Endpoint(name) for name in "abc"])
    order = []
    for _ in range(4):
        replica = replicas.choose()
        replicas.begin(replica, 1)
        replicas.end(replica, 1)
        order.append(str(replica))
    assert order == ["b", "c", "a", "b"]


def test_requests_that_fail_together_count_as_one_failure(clock):
    replicas, (a,) = fleet(clock, "a")
    for _ in range(50):
        replicas.stumbled(a)
    assert a.failures == 1
    assert replicas.opens_in() == pytest.approx(FIRST_WAIT_S)


def test_one_that_serves_again_is_asked_at_once(clock):
    replicas, (a,) = fleet(clock, "a")
    replicas.heard(a, False)
    for _ in range(8):
        replicas.stumbled(a)
        clock.now += 0.5
    replicas.heard(a, True)
    assert replicas.choose() is a and a.failures == 0


def test_pushback_is_not_shortened_by_health(clock):
    replicas, (a,) = fleet(clock, "a")
    replicas.heard(a, True)
    replicas.leave_alone(a, 2.0)
    replicas.heard(a, True)
    assert replicas.choose() is None


def test_new_addresses_join_old_ones_leave_and_the_rest_stay_as_they_are(clock):
    replicas, (a, b, _) = fleet(clock)
    replicas.begin(b, 70)
    replicas.heard(b, True)
    joined, left = replicas.replace([Endpoint(name) for name in "bdbb"])
    assert [str(r) for r in joined] == ["d"]
    assert [str(r) for r in left] == ["a", "c"] and a.left and not b.left
    assert [str(r) for r in replicas] == ["b", "d"] and len(replicas) == 2
    assert b in list(replicas) and b.outstanding == 70
    (d,) = joined
    replicas.heard(d, True)
    assert replicas.choose() is d, "a new replica has nothing outstanding"
