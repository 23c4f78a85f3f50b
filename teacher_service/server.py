"""One process, one model, one port: bind, load, warm up, serve, drain.

Phases, as health tells them: NOT_SERVING while loading and warming up (teacher calls answer
UNAVAILABLE), SERVING, NOT_SERVING from the first SIGTERM or SIGINT on (lame duck, then no new
calls, then the calls under way are finished within the grace). The port is bound before the model
is read, so that a taken port costs no time; torch is imported only then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.teacher.v1 import teacher_pb2, teacher_pb2_grpc
from seq2seq.errors import UserError
from teacher_service import aio_runtime
from teacher_service.binding import bind, check, forget_address, write_address
from teacher_service.config import ServerConfig
from teacher_service.engine import MODEL_THREAD, Engine, Lane
from teacher_service.interceptors import Gate, StatusInterceptor, TokenInterceptor
from teacher_service.loading import (
    LOAD_THREAD,
    Load,
    examine,
    in_thread,
    load_and_warm,
    load_backend,
)
from teacher_service.loop_thread import LoopThread
from teacher_service.metrics import Metrics, serve_metrics
from teacher_service.secret_files import read_token
from teacher_service.servicer import TeacherServicer
from teacher_service.work import Backend

SERVICE = teacher_pb2.DESCRIPTOR.services_by_name["TeacherService"].full_name
Announce = Callable[[dict[str, Any]], None]

_log = logging.getLogger("teacher_service")
_SWITCH_INTERVAL_S = 1e-4
_STDIN = 0
_LOADING = "the teacher is loading its model; try again shortly"
_DRAINING = "the teacher is shutting down; ask another replica"
_BROKEN = "the teacher's model no longer computes; ask another replica"


def print_event(event: dict[str, Any]) -> None:
    """One JSON line on standard output, for whoever started the process."""
    print(json.dumps(event), flush=True)


class TeacherServer:
    """The life of a server on one event loop.

    Args:
        load: builds the backend; runs in a thread.
        announce: told ``listening`` (with the address), ``serving``, ``draining``, ``stopped``.
    """

    def __init__(
        self,
        config: ServerConfig,
        load: Load = load_backend,
        announce: Announce = print_event,
    ) -> None:
        self._config = config
        self._load = load
        self._announce = announce
        self._stop = asyncio.Event()
        self._broken: Exception | None = None
        self._gate = Gate(_LOADING)
        self.metrics = Metrics()
        self._health = health.aio.HealthServicer()
        self._servicer = TeacherServicer(config)
        self._scrapes: WSGIServer | None = None
        self.engine: Engine | None = None

    def stop(self) -> None:
        """Begin to drain; on the server's loop."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until :meth:`stop`, or until the model no longer computes.

        Raises:
            UserError: port taken, broken model.
            TeacherSecretError: unreadable token, certificate or key.
        """
        check(self._config)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        server = self._build()
        address = bind(server, self._config)
        await server.start()
        try:
            if self._config.address_file is not None:
                write_address(self._config.address_file, address)
            shown = self._show_metrics()
            self._announce({"event": "listening", "address": address, "pid": os.getpid()} | shown)
            if await self._open():
                await self._stop.wait()
            await self._drain(server)
        finally:
            await server.stop(0)
            if self.engine is not None:
                # The thread is a daemon: a batch that never ends does not keep the process.
                await asyncio.to_thread(self.engine.stop, 5.0)
            if self._scrapes is not None:
                await asyncio.to_thread(self._scrapes.shutdown)
                self._scrapes.server_close()
            forget_address(self._config)
        self._announce({"event": "stopped"})
        if self._broken is not None:
            reason = " ".join(str(self._broken).split())[:200] or type(self._broken).__name__
            raise UserError(
                f"the model no longer computes on {self._config.device} ({reason}); start the "
                "server again, and look at the device where this comes back"
            ) from self._broken

    def _build(self) -> grpc.aio.Server:
        config = self._config
        aio_runtime.keep()
        interceptors: list[grpc.aio.ServerInterceptor] = [
            StatusInterceptor(self._gate, self.metrics.call_ended, config.default_deadline_s)
        ]
        if config.token_file is not None:
            # Outermost: a caller without a credential learns nothing else.
            interceptors.insert(
                0, TokenInterceptor(read_token(config.token_file), self.metrics.call_ended)
            )
        server = grpc.aio.server(
            interceptors=interceptors,
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_send_message_length", -1),
            ),
        )
        teacher_pb2_grpc.add_TeacherServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.serves_reflection:
            from grpc_reflection.v1alpha import reflection

            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    async def _open(self) -> bool:
        """Load, warm up, let calls in; False where a stop came first."""
        started = time.monotonic()
        loading = asyncio.ensure_future(in_thread(partial(load_and_warm, self._config, self._load)))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return False
        stopping.cancel()
        backend, loop = loading.result(), asyncio.get_running_loop()
        self.engine = Engine(
            [
                Lane("score", self._config.score_limits, backend.score),
                Lane("generate", self._config.generate_limits, backend.generate, asks=True),
            ],
            report=self.metrics.batch_done,
            examine=partial(examine, backend),
            broken=lambda error: loop.call_soon_threadsafe(self._give_up, error),
        )
        self.engine.start()
        self._servicer.attach(backend, self.engine)
        self._watch(backend, self.engine)
        self._gate.closed_because = None
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        identity = backend.identity
        self._announce(
            {
                "event": "serving",
                "name": identity.name,
                "revision": identity.revision,
                "parameters": identity.parameters,
                "seconds": round(time.monotonic() - started, 3),
            }
        )
        return True

    def _give_up(self, error: Exception) -> None:
        """A replica that fails at once has the fewest outstanding tokens: it would draw them all.

        So it takes no more calls, and ends for whoever started it to start it again.
        """
        _log.error("the model no longer computes", exc_info=error)
        self._broken = error
        self._gate.closed_because = _BROKEN
        self._stop.set()

    def _show_metrics(self) -> dict[str, str]:
        """Begin to answer scrapes where configured; what to announce of it."""
        config = self._config
        self.metrics.phase("loading")
        if config.metrics_host_and_port is None:
            return {}
        files = (config.tls_certificate, config.tls_key, config.tls_client_ca)
        self._scrapes, address = serve_metrics(self.metrics, *config.metrics_host_and_port, *files)
        return {"metrics_address": address}

    def _watch(self, backend: Backend, engine: Engine) -> None:
        """Show the model, what waits and what is kept."""
        caches = {"score": self._servicer.scores.cache}
        encoder = getattr(backend, "encoder_cache", None)
        if encoder is not None:
            caches["encoder"] = encoder
        self.metrics.watch_caches(caches)
        self.metrics.watch_engine(engine)
        self.metrics.model(backend.identity, self._config.device, self._config.dtype)
        self.metrics.phase("serving")

    async def _drain(self, server: grpc.aio.Server) -> None:
        """NOT_SERVING, lame duck, no new calls, calls under way finished within the grace."""
        self._announce({"event": "draining", "inside": self._gate.inside})
        self.metrics.phase("draining")
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._config.lame_duck_s)
        self._gate.closed_because = self._gate.closed_because or _DRAINING
        try:
            async with asyncio.timeout(self._config.drain_grace_s):
                await self._gate.emptied()
        except TimeoutError:
            _log.warning(
                "%d calls were cut off after the grace of %g s; raise --drain-grace-s",
                self._gate.inside,
                self._config.drain_grace_s,
            )
            return
        # Replies may still be on their way out. Health watchers never leave by themselves.
        await server.stop(0.5)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


def serve(config: ServerConfig, announce: Announce = print_event) -> None:
    """Serve until SIGTERM or SIGINT, then drain; returns when all is done. Main thread only.

    Raises:
        UserError: port taken, broken model, or a standard input that cannot be watched.
        TeacherSecretError: unreadable token, certificate or key.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _log.setLevel(logging.INFO)

    # After every operation the model's thread wants the interpreter back; at Python's 5 ms it would
    # wait out whole bursts of requests and replies.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    async def main() -> None:
        server = TeacherServer(config, announce=announce)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        if config.end_with_stdin:
            _watch_stdin(loop, server.stop)
        await server.run()

    asyncio.run(main())
    if any(thread.name in (MODEL_THREAD, LOAD_THREAD) for thread in threading.enumerate()):
        # Torch's own code ends the process with a fault where Python goes away under it.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _watch_stdin(loop: asyncio.AbstractEventLoop, closed: Callable[[], None]) -> None:
    """Call ``closed`` when whoever holds the other end of standard input has gone."""

    def read() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            closed()

    try:
        loop.add_reader(_STDIN, read)
    except OSError:
        raise UserError(
            "--end-with-stdin: standard input is a file, which does not close; give it a pipe"
        ) from None


class ServerThread:
    """A server beside other work in this process, as a context manager: for notebooks and tests.

    Attributes:
        address: bound address, known inside the ``with`` block.
        server: the running server.
    """

    def __init__(self, config: ServerConfig, load: Load = load_backend) -> None:
        self._config = config
        self._load = load
        self._listening = threading.Event()
        self._ended: Future[None]
        self.address = ""
        self.events: list[dict[str, Any]] = []
        self.server: TeacherServer
        self._loop: asyncio.AbstractEventLoop

    def __enter__(self) -> ServerThread:
        self._ended = LoopThread.shared().submit(self._run())
        # Also set where it ends before it listens.
        self._ended.add_done_callback(lambda _: self._listening.set())
        self._listening.wait()
        if self._ended.done():
            self._ended.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        failure = self._ended.exception()
        if error is None and failure is not None:
            raise failure

    def stop(self) -> None:
        """Begin to drain; the block's end waits for it."""
        self._loop.call_soon_threadsafe(self.server.stop)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.server = TeacherServer(self._config, self._load, self._announce)
        await self.server.run()

    def _announce(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "listening":
            self.address = event["address"]
            self._listening.set()
