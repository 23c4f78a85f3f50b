"""The asyncio side of a request: outcomes come from the model's thread, handlers await them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from teacher_service.engine import Outcome
from teacher_service.refusals import Expired


class Pending:
    """Collects the outcomes of one request on the loop that built it.

    Args:
        count: entries of the request.
        timeout_s: how long, from now, results may be waited for.
        known: results by index that need no model.
        keep: told the index and the value of every result of the model.

    Attributes:
        timeout_s: as given.
        queue_seconds: longest wait of an entry so far.
        compute_seconds: summed over the batches that held entries so far.
    """

    def __init__(
        self,
        count: int,
        timeout_s: float,
        known: Mapping[int, Any] | None = None,
        keep: Callable[[int, Any], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.timeout_s = timeout_s
        self._deadline = self._loop.time() + timeout_s
        self._outcomes: list[Outcome | None] = [None] * count
        for index, value in (known or {}).items():
            self._outcomes[index] = Outcome(index, value)
        self._keep = keep
        self._arrived = asyncio.Event()
        self.queue_seconds = 0.0
        self.compute_seconds = 0.0

    def deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Hand over the outcomes of one batch; any thread."""
        with contextlib.suppress(RuntimeError):  # the loop closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._accept, outcomes)

    async def value(self, index: int) -> Any:
        """The result of one entry, released to the caller.

        Raises:
            Expired: the time is up.
            Refusal: what became of it instead.
        """
        outcome = self._outcomes[index]
        if outcome is None:
            outcome = await self._awaited(index)
        if outcome.error is not None:
            raise outcome.error
        self._outcomes[index] = None
        return outcome.value

    async def _awaited(self, index: int) -> Outcome:
        try:
            async with asyncio.timeout_at(self._deadline):
                while (outcome := self._outcomes[index]) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise Expired(
                f"no answer within {self.timeout_s:.3g} s; allow more time, send less at once or "
                "add a replica"
            ) from None
        return outcome

    async def values(self) -> list[Any]:
        """All results in order; see :meth:`value`."""
        return [await self.value(index) for index in range(len(self._outcomes))]

    def _accept(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._outcomes[outcome.index] = outcome
            if self._keep is not None and outcome.error is None:
                self._keep(outcome.index, outcome.value)
        self.queue_seconds = max(self.queue_seconds, *(o.queue_seconds for o in outcomes))
        self.compute_seconds += max(o.compute_seconds for o in outcomes)
        self._arrived.set()
