"""What makes a run repeat bit by bit.

Rows, coin flips, sampling noise and dropout are addressed by key, weights by version, and thread
counts are pinned whatever the setting. ``deterministic: true`` adds the kernels: only those whose
result does not depend on the order in which threads get there. The teacher has to do its part: it
must be served with batching across requests turned off, for a batch's padding moves its results.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from seq2seq.threads import threads


def prepare_process(deterministic: bool) -> None:
    """Set what must be set before a device is first used; cuBLAS reads it when it starts."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def compute(thread_count: int, deterministic: bool) -> Iterator[None]:
    """Compute with so many threads inside the block, on deterministic kernels where asked for.

    Raises:
        RuntimeError: inside the block, an operation has no deterministic kernel on its device.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with threads(thread_count):
        if deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            if deterministic:
                torch.use_deterministic_algorithms(before, warn_only=warn_only)
