"""Load on a served teacher: closed loop (clients that wait for their answers) and open loop."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.client import TeacherClient
from teacher_service.codec import TopKSpec
from teacher_service.loop_thread import LoopThread

METHOD = "/teacher.v1.TeacherService/Score"


@dataclass(frozen=True)
class Call:
    """One request: some sentences with their targets."""

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]

    @property
    def positions(self) -> int:
        """Distributions that come back."""
        return sum(len(target) for target in self.targets)


def closed_loop(address: str, calls: Sequence[Call], payload: TopKSpec, clients: int) -> float:
    """Seconds for all calls with ``clients`` of them in flight, through one shared client."""
    waiting = iter(calls)
    lock = threading.Lock()
    faults: list[BaseException] = []

    def work(client: TeacherClient) -> None:
        ready.wait()
        while True:
            with lock:
                call = next(waiting, None)
            if call is None:
                return
            try:
                result = client.score(call.sources, call.targets, payload)
                assert len(result.token_log_probs_P) == call.positions
            except BaseException as error:
                faults.append(error)
                return

    with TeacherClient(address) as client:
        client.model_info()
        ready = threading.Barrier(clients + 1)
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        ready.wait()
        begin = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
    if faults:
        raise faults[0]
    return seconds


@dataclass
class Answers:
    """What became of the requests of an open loop.

    Attributes:
        sent: number of requests.
        done_at: of every full answer, seconds since the first request and its positions.
        refusal_s: from sending to the refusal, of every request refused for a full queue.
        late_s: how much later than planned each request was sent.
        faults: any other status, counted.
    """

    sent: int = 0
    done_at: list[tuple[float, int]] = field(default_factory=list)
    refusal_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Requests with an answer of any kind."""
        return len(self.done_at) + len(self.refusal_s) + sum(self.faults.values())


def open_loop(
    address: str,
    messages: Sequence[tuple[bytes, int]],
    rate: float,
    seconds: float,
    sample: Callable[[float], None],
) -> Answers:
    """Send requests at the times of a Poisson process, whether or not answers come.

    Args:
        messages: serialised ``ScoreRequest`` with its positions, taken in turn.
        rate: requests a second.
        sample: called about once a second with the seconds since the first request.
    """
    # The loop of the blocking clients: gRPC wakes every loop of a process for every answer.
    return LoopThread.shared().submit(_open_loop(address, messages, rate, seconds, sample)).result()


async def _open_loop(
    address: str,
    messages: Sequence[tuple[bytes, int]],
    rate: float,
    seconds: float,
    sample: Callable[[float], None],
) -> Answers:
    answers, draw = Answers(), random.Random(1)
    async with grpc.aio.insecure_channel(address) as channel:
        score = channel.unary_unary(METHOD)
        await score(messages[0][0], timeout=30)
        begin = time.perf_counter()

        async def ask(message: bytes, positions: int) -> None:
            sent = time.perf_counter()
            try:
                data = await score(message, timeout=60)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    answers.refusal_s.append(time.perf_counter() - sent)
                else:
                    name = error.code().name
                    answers.faults[name] = answers.faults.get(name, 0) + 1
                return
            now = time.perf_counter() - begin
            # Two bytes a position of the actual token's log-probability: whole and nobody else's.
            reply = pb.ScoreResponse.FromString(data)
            assert len(reply.token_log_probs.data) == 2 * positions
            answers.done_at.append((now, positions))

        tasks: list[asyncio.Task[None]] = []
        planned, sampled = 0.0, 0.0
        while planned < seconds:
            wait = begin + planned - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            answers.late_s.append(max(0.0, time.perf_counter() - begin - planned))
            tasks.append(asyncio.create_task(ask(*messages[answers.sent % len(messages)])))
            answers.sent += 1
            if planned >= sampled:
                sample(planned)
                sampled += 1.0
            planned += draw.expovariate(rate)
        await asyncio.gather(*tasks)
        sample(seconds)
    return answers
