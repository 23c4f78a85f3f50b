"""Watching another process or thread: until something holds, and what it shows to Prometheus."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return when ``condition`` holds; asked every 5 ms.

    Raises:
        AssertionError: it does not come true.
    """
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition did not come true")


def scraper(address: str) -> Callable[..., float | None]:
    """``read(name, label=...)``: one number of a fresh scrape of a teacher's metrics."""

    def read(name: str, /, **labels: str) -> float | None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return found.get((f"teacher_{name}", tuple(sorted(labels.items()))))

    return read
