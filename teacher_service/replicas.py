"""The replicas of one teacher as their client sees them, and which of them is asked next. Pure.

Asked is, of the replicas believed to serve and not left alone for a while, the one with the fewest
outstanding tokens of this client; among equals the one that was asked longest ago. Outstanding
tokens see what a count of calls does not: a replica that is slow, or was given long sentences.
One that serves another model than the others is asked nothing until it has been away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from teacher_service.addresses import Endpoint

# Exponential backoff of a replica that failed.
FIRST_WAIT_S = 0.03
LONGEST_WAIT_S = 1.0
# How soon to look again where there is no replica at all.
_EMPTY_WAIT_S = 0.25


@dataclass(eq=False)
class Replica:
    """One replica.

    Attributes:
        outstanding: tokens of the requests under way.
        calls: requests under way.
        serving: what its health says; None: nothing heard.
        admitted: whether it serves the right model; None: not asked yet who it is.
        failures: in a row, of those that tell of the replica and not of the request.
        closed_until: when it may be asked again, on the client's clock.
        asked: when it was asked last, as a count of requests of the client.
        left: no longer among the addresses; requests under way still end there.
    """

    endpoint: Endpoint
    outstanding: int = 0
    calls: int = 0
    serving: bool | None = None
    admitted: bool | None = None
    failures: int = 0
    closed_until: float = float("-inf")
    asked: float = 0
    left: bool = False

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def rank(self) -> int:
        """0 believed to serve, 1 nothing heard, 2 known not to, 3 of another model; only the best
        rank is asked."""
        return 3 if self.admitted is False else {True: 0, None: 1, False: 2}[self.serving]


class Replicas:
    """All replicas of one teacher.

    Args:
        clock: seconds, monotonic.
        random: uniform in 0 .. 1; which of those that nobody was asked of yet comes first, so that
            clients that begin together do not all begin at one replica.
    """

    def __init__(
        self, clock: Callable[[], float], random: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._clock, self._random = clock, random
        self._members: dict[Endpoint, Replica] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._members.values()))

    def replace(self, endpoints: Sequence[Endpoint]) -> tuple[list[Replica], list[Replica]]:
        """Make these the members; those that stay keep what is known of them.

        Returns:
            Who joined and who left.
        """
        left = [r for e, r in self._members.items() if e not in set(endpoints)]
        new = [e for e in dict.fromkeys(endpoints) if e not in self._members]
        joined = [Replica(e, asked=-self._random()) for e in new]
        known = self._members | {r.endpoint: r for r in joined}
        self._members = {e: known[e] for e in dict.fromkeys(endpoints)}
        for replica in left:
            replica.left = True
        return joined, left

    def choose(self, avoid: Collection[Replica] = ()) -> Replica | None:
        """Who is asked next; one of ``avoid`` only where no other may be. None: nobody now."""
        now = self._clock()
        ready = [r for r in self._best() if r.closed_until <= now]
        return min(ready, key=lambda r: (r in avoid, r.outstanding, r.asked), default=None)

    def another_than(self, replicas: Collection[Replica]) -> bool:
        """Whether somebody else could be asked, now or later."""
        return any(r not in replicas for r in self._best())

    def opens_in(self) -> float:
        """Seconds until somebody may be asked."""
        opening = min((r.closed_until for r in self._best()), default=None)
        return _EMPTY_WAIT_S if opening is None else max(0.0, opening - self._clock())

    @property
    def all_refused(self) -> bool:
        """Whether none of them serves the right model."""
        return all(r.admitted is False for r in self._members.values())

    def refuse(self, replica: Replica) -> None:
        """It serves another model."""
        replica.admitted = False

    def begin(self, replica: Replica, tokens: int) -> None:
        """A request goes out."""
        self._asked += 1
        replica.asked = self._asked
        replica.outstanding += tokens
        replica.calls += 1

    def end(self, replica: Replica, tokens: int) -> None:
        """The request has ended, whatever its outcome."""
        replica.outstanding -= tokens
        replica.calls -= 1

    def answered(self, replica: Replica) -> None:
        replica.failures = 0

    def stumbled(self, replica: Replica) -> None:
        """It failed: leave it alone, longer from one time to the next.

        Requests that were under way together count as one failure.
        """
        if self._clock() >= replica.closed_until:
            replica.failures += 1
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(replica.failures - 1, 20))
            replica.closed_until = self._clock() + wait

    def leave_alone(self, replica: Replica, seconds: float) -> None:
        """It asked for it."""
        replica.closed_until = max(replica.closed_until, self._clock() + seconds)

    def heard(self, replica: Replica, serving: bool) -> None:
        """Its health changed; one that serves again is asked at once, and first who it is now."""
        if serving and replica.serving is False:
            replica.admitted = None
            replica.failures = 0
            replica.closed_until = float("-inf")
        replica.serving = serving

    def _best(self) -> list[Replica]:
        rank = min((r.rank for r in self._members.values()), default=0)
        return [r for r in self._members.values() if r.rank == rank]
