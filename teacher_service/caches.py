"""What was computed before, kept within a budget of bytes. No torch, no gRPC."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from teacher_service.codec import Arrays
from teacher_service.content_key import ContentKeys
from teacher_service.work import ScoreChoice, ScoreItem

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# What a key, the places in the table and the objects around the numbers take, about.
ENTRY_BYTES = 500


class ByteCache(Generic[K, V]):
    """The most recently used values whose sizes together stay within a budget.

    Used by one thread; any other may read the counters.

    Attributes:
        budget: bytes; 0 keeps nothing.
        held: bytes kept now, overhead included.
        hits, misses, evictions: counted since the start.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = self.hits = self.misses = self.evictions = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, now the most recently used; None where it is not kept."""
        found = self._values.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._values.move_to_end(key)
        return found[0]

    def clear(self) -> None:
        """Forget everything, the counts too."""
        self._values.clear()
        self.held = self.hits = self.misses = self.evictions = 0

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of ``size`` bytes; one larger than the budget is not kept."""
        size += ENTRY_BYTES
        if size > self.budget:
            return
        before = self._values.pop(key, None)
        self.held += size - (before[1] if before is not None else 0)
        self._values[key] = (value, size)
        while self.held > self.budget:
            _, (_, freed) = self._values.popitem(last=False)
            self.held -= freed
            self.evictions += 1


class ScoreCache:
    """Rows of scored pairs by their content address; used on the event loop.

    Args:
        budget: bytes; 0 keeps nothing.
        revision: of the model whose scores these are.
    """

    def __init__(self, budget: int, revision: str) -> None:
        self.cache: ByteCache[bytes, Arrays] = ByteCache(budget)
        self._revision = revision

    def recall(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> Recall:
        """What is known of these pairs, and where to leave what is not."""
        if not self.cache.budget:
            return Recall(self.cache, [], {})
        keys = ContentKeys(self._revision, choice.kind, choice.dtype, choice.k, choice.temperature)
        addresses = [keys.key(item.source, item.target, item.candidates) for item in items]
        found = {index: self.cache.get(address) for index, address in enumerate(addresses)}
        known = {index: rows for index, rows in found.items() if rows is not None}
        return Recall(self.cache, addresses, known)


class Recall:
    """What a cache knows of one request.

    Attributes:
        known: rows by index, not to be written to.
    """

    def __init__(
        self, cache: ByteCache[bytes, Arrays], addresses: list[bytes], known: dict[int, Arrays]
    ) -> None:
        self.known = known
        self._cache = cache
        self._addresses = addresses

    def keep(self, index: int, rows: Arrays) -> None:
        """Remember rows; copied, since they are mostly views of a whole batch."""
        size = sum(array.nbytes for array in rows.values())
        if size < self._cache.budget:
            copies = {name: array.copy() for name, array in rows.items()}
            self._cache.put(self._addresses[index], copies, size)
