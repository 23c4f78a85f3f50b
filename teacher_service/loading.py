"""A model from its directory to its first answers, and whether it still gives any. No gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from protos.teacher.v1 import teacher_pb2 as pb
from seq2seq.errors import UserError
from teacher_service.config import ServerConfig
from teacher_service.refusals import NonFiniteOutput
from teacher_service.work import Backend, ScoreChoice, ScoreItem

T = TypeVar("T")
Load = Callable[[ServerConfig], Backend]

_log = logging.getLogger("teacher_service")

LOAD_THREAD = "teacher-load"


def load_backend(config: ServerConfig) -> Backend:
    """The model directories of the configuration, on their device.

    Raises:
        UserError: broken directory or absent device.
    """
    from teacher_service.local_model import load_local_model

    return load_local_model(
        config.model_dirs,
        config.device,
        config.dtype,
        config.threads,
        target_prefix=config.target_prefix,
        encoder_cache_bytes=config.encoder_cache_bytes,
    )


def load_and_warm(config: ServerConfig, load: Load) -> Backend:
    """A backend that has computed a batch of full size.

    Raises:
        UserError: broken directory, absent device, or a model that does not run there.
    """
    names = ", ".join(map(str, config.model_dirs))
    try:
        backend = load(config)
        backend.warm_up(config.batch_tokens)
    except NonFiniteOutput as error:
        raise UserError(
            f"{names}: the weights give no finite scores ({error}); copy the directory again"
        ) from error
    except RuntimeError as error:  # torch's: out of memory, or no such operation there
        _log.debug("loading failed", exc_info=error)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{names}: does not run on {config.device} in {config.dtype} with batches of "
            f"{config.batch_tokens} ids ({reason}); lower --batch-tokens, or choose another "
            "--device or --dtype"
        ) from error
    return backend


def examine(backend: Backend) -> None:
    """Have one position scored: raises what the model raises where it no longer computes.

    A fault of a GPU stays: every later operation of the process fails as well.
    """
    end = backend.identity.eos_id
    choice = ScoreChoice(pb.PAYLOAD_KIND_ARGMAX, pb.DATA_TYPE_FLOAT32)
    backend.score(choice, [ScoreItem((end,), (end,))])


async def in_thread(work: Callable[[], T]) -> T:
    """Like ``asyncio.to_thread``, on a daemon: a stop during loading need not wait for it.

    Args:
        work: gives something other than None.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[T | None, Exception | None] = (work(), None)
        except Exception as error:  # handed to the waiting loop, which raises it
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop closed meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name=LOAD_THREAD, daemon=True).start()
    return await future
