"""gRPC's asyncio layer, kept up for as long as the process lives."""

from __future__ import annotations

import os

import grpc.aio

_kept_by: int | None = None


def keep() -> None:
    """Start the layer, never to be ended.

    Left to itself it ends with the last channel, call or server, in whatever thread the garbage
    collector meets that, beside its own polling thread. Called where a loop is about to use the
    layer, not on import: a process that forks before has nothing that its children could miss.
    """
    global _kept_by
    if _kept_by != os.getpid():
        _kept_by = os.getpid()
        grpc.aio.init_grpc_aio()
