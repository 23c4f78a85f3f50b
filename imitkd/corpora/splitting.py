"""Hash splits that do not leak: what is held out shares no text with what is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from imitkd.corpora.cleaning import leak_key
from seq2seq.corpus import Example


def stable_hash(text: str) -> str:
    """Hexadecimal SHA-256 of `text`: the same on every machine and in every run."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def order_key(pair: Example) -> tuple[str, str, tuple[str, ...]]:
    """Sort key of a pair that does not depend on where it stood in its file."""
    return stable_hash(pair.source), pair.source, pair.references


class _Components:
    """Union-find over strings."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        root = item
        while (parent := self._parent.setdefault(root, root)) != root:
            root = parent
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, first: str, second: str) -> None:
        self._parent[self.find(first)] = self.find(second)


def connect(pairs: Iterable[Example]) -> list[str]:
    """For each pair the name of its component: pairs that share a source or a reference,
    compared by `leak_key`, directly or through other pairs, are in the same one."""
    pairs = list(pairs)
    components = _Components()
    for pair in pairs:
        source = "s " + leak_key(pair.source)
        components.find(source)
        for reference in pair.references:
            components.join(source, "t " + leak_key(reference))
    return [components.find("s " + leak_key(pair.source)) for pair in pairs]


def split_held_out(
    pairs: Sequence[Example],
    sizes: Sequence[tuple[str, int]],
    eligible: Callable[[Example], bool] = lambda pair: True,
) -> dict[str, list[Example]]:
    """Split `pairs` into "train" and the held-out splits named in `sizes`, filled in that order.

    Held-out pairs are the eligible ones with the smallest hash of their source's leak key, at most
    one of each component (see `connect`); the rest of such a component is left out altogether. So
    the split does not depend on the order of `pairs`, and no held-out text occurs in train,
    whatever its case, punctuation, placeholders or numbers. A split comes out smaller than asked
    when the eligible components run out. Every split is sorted by the hash of the source.
    """
    component = connect(pairs)
    ranked = sorted(
        (stable_hash(leak_key(pair.source)), order_key(pair), index)
        for index, pair in enumerate(pairs)
        if eligible(pair)
    )
    used: set[str] = set()
    free = iter(ranked)
    splits: dict[str, list[Example]] = {"train": []}
    for name, size in sizes:
        chosen: list[Example] = []
        while len(chosen) < size and (entry := next(free, None)) is not None:
            index = entry[-1]
            if component[index] not in used:
                used.add(component[index])
                chosen.append(pairs[index])
        splits[name] = sorted(chosen, key=order_key)
    splits["train"] = sorted(
        (pair for pair, name in zip(pairs, component, strict=True) if name not in used),
        key=order_key,
    )
    return splits
