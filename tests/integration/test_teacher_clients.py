"""Both clients against several replicas: teachers that do as told, over real gRPC on loopback."""

# ruff: noqa: SIM117  (nested blocks show who outlives whom)

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from teacher_service import codec, errors
from teacher_service.async_client import AsyncTeacherClient
from teacher_service.client import ClientOptions, TeacherClient
from teacher_service.loop_thread import LoopThread
from tests.fake_teacher import FakeTeacher, expected, serving
from tests.watching import wait_until

ARGMAX, FULL = codec.ArgmaxSpec("float32"), codec.FullSpec("float32")


def only(method: str, act: Callable[[Any, Any], None]) -> Callable[[str, Any, Any], None]:
    """A ``before`` that acts on one method alone."""
    return lambda name, request, context: act(request, context) if name == method else None


def push_back(milliseconds: int) -> Callable[[Any, Any], None]:
    def act(_: Any, context: Any) -> None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(milliseconds)),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")

    return act


def abort(code: grpc.StatusCode) -> Callable[[Any, Any], None]:
    return lambda _, context: context.abort(code, "as told")


def hang(_: Any, context: Any) -> None:
    while context.is_active():
        time.sleep(0.005)


def pairs(count: int, first: int = 1) -> tuple[list[list[int]], list[list[int]]]:
    """Sequences told apart by their first source id, of several lengths."""
    sources = [[first + i, 5, 1] for i in range(count)]
    return sources, [[7] * (i % 4) for i in range(count)]


def known(client: TeacherClient, teachers: list[FakeTeacher]) -> None:
    """Wait until every replica's health was heard."""
    client.model_info()
    fleet = client._client._fleet
    wait_until(lambda: [r.serving for r in fleet.replicas] == [True] * len(teachers))
    for teacher in teachers:
        teacher.calls.clear()


# -------------------------------------------------------------------------------------- one surface


def test_both_clients_have_the_same_surface():
    names = ["model_info", "replicas", "score", "generate", "artifact", "wait_ready", "close"]
    for name in names:
        blocking = inspect.signature(getattr(TeacherClient, name))
        awaited = inspect.signature(getattr(AsyncTeacherClient, name))
        assert blocking == awaited, name
        assert inspect.iscoroutinefunction(getattr(AsyncTeacherClient, name))
    public = {n for n in vars(AsyncTeacherClient) if not n.startswith("_")}
    assert public == set(names) == {n for n in vars(TeacherClient) if not n.startswith("_")}


def test_the_options_of_both_clients_are_the_same():
    parameters = list(inspect.signature(AsyncTeacherClient.__init__).parameters)[2:]
    assert parameters == list(ClientOptions.__annotations__)


@pytest.mark.parametrize("payload", [ARGMAX, FULL], ids=["Score", "ScoreStream"])
def test_parts_travel_side_by_side_and_come_back_in_order(payload):
    """Four requests at once and no more (two a replica): each waits for three others."""
    gate, lock = threading.Barrier(4, timeout=10), threading.Lock()
    inside, peak = 0, 0

    def act(*_: Any) -> None:
        nonlocal inside, peak
        with lock:
            inside, peak = inside + 1, max(peak, inside + 1)
        gate.wait()
        time.sleep(0.05)  # a fifth would be here by now
        with lock:
            inside -= 1

    method = "ScoreStream" if payload is FULL else "Score"
    first, second = (FakeTeacher(before=only(method, act)) for _ in range(2))
    sources, targets = pairs(16)
    with serving(first, second) as addresses, TeacherClient(addresses) as client:
        known(client, [first, second])
        result = client.score(sources, targets, payload)
    assert result.token_log_probs_P.tolist() == expected(sources, targets)
    assert result.lengths_B.tolist() == [len(t) for t in targets]
    assert first.calls[method] == second.calls[method] == 4 and peak == 4
    assert first.seen + second.seen == {s[0]: 1 for s in sources}


def test_one_failing_part_ends_the_call_and_the_other_parts():
    def act(request: Any, context: Any) -> None:
        if request.sequences[0].source_ids[0] == 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sequences[0]: no")
        hang(request, context)

    teacher = FakeTeacher(before=only("Score", act))
    with serving(teacher) as addresses, TeacherClient(addresses) as client:
        with pytest.raises(errors.TeacherRefused, match="no"):
            client.score(*pairs(8), ARGMAX)
        for _ in range(1 + teacher.calls["Score"]):  # GetModelInfo as well: all have ended
            assert teacher.ended.acquire(timeout=30)


def test_generation_is_cut_into_parts_with_the_keys_of_the_whole():
    keys: list[int] = []
    lock = threading.Lock()

    def note(request: Any, _: Any) -> None:
        with lock:
            keys.extend(i.key for i in request.inputs)

    teacher = FakeTeacher(before=only("Generate", note))
    sources = pairs(7)[0]
    with serving(teacher) as addresses, TeacherClient(addresses) as client:
        found = client.generate(sources, codec.Sample())
    assert [h.ids for (h,) in found] == sources
    assert sorted(keys) == list(range(7)) and teacher.calls["Generate"] == 4


def test_generation_is_cut_at_the_tokens_of_a_request():
    teacher = FakeTeacher(limits={"max_request_sequences": 100, "max_request_tokens": 10})
    sources = pairs(7)[0]
    with serving(teacher) as addresses, TeacherClient(addresses) as client:
        found = client.generate(sources, codec.Greedy(), prefixes=[[8, 9]] * 7)
        with pytest.raises(errors.TeacherRefused, match="7 sources but 6 prefixes; give one"):
            client.generate(sources, codec.Greedy(), prefixes=[[8, 9]] * 6)
    assert [h.ids for (h,) in found] == sources and teacher.calls["Generate"] == 4


# ------------------------------------------------------------------------------- how load is spread


def test_the_least_outstanding_tokens_are_asked_first():
    """While one replica holds a long request, all short ones go to the other."""
    release = threading.Event()

    def act(request: Any, _: Any) -> None:
        if len(request.sequences[0].source_ids) > 10:
            release.wait(10)

    teachers = [FakeTeacher(before=only("Score", act)) for _ in range(2)]
    with serving(*teachers) as addresses, TeacherClient(addresses) as client:
        known(client, teachers)
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(client.score, [[9] * 40], [[7]], ARGMAX)
            wait_until(lambda: sum(t.calls["Score"] for t in teachers) == 1)
            (busy,) = [t for t in teachers if t.calls["Score"]]
            (idle,) = [t for t in teachers if t is not busy]
            for _ in range(6):
                client.score([[5, 1]], [[7]], ARGMAX)
            assert (busy.calls["Score"], idle.calls["Score"]) == (1, 6)
            release.set()
            assert long.result(10).lengths_B.tolist() == [1]


def test_a_slow_answer_is_waited_for_not_asked_for_twice():
    """No hedging."""
    teachers = [FakeTeacher(before=only("Score", lambda *_: time.sleep(0.3))) for _ in range(2)]
    with serving(*teachers) as addresses, TeacherClient(addresses) as client:
        known(client, teachers)
        client.score([[5, 1]], [[7]], ARGMAX)
    assert sum(t.calls["Score"] for t in teachers) == 1


def test_a_replica_that_pushes_back_is_left_alone_that_long():
    now = [0.0]
    full, free = FakeTeacher(before=only("Score", push_back(60_000))), FakeTeacher()
    with serving(full, free) as addresses:
        with TeacherClient(addresses, clock=lambda: now[0]) as client:
            known(client, [full, free])
            for _ in range(8):
                client.score([[5, 1]], [[7]], ARGMAX)
            assert (full.calls["Score"], free.calls["Score"]) == (1, 8)
            now[0] += 59.9
            client.score([[5, 1]], [[7]], ARGMAX)
            assert full.calls["Score"] == 1
            now[0] += 0.2
            client.score([[5, 1]], [[7]], ARGMAX)
            assert full.calls["Score"] == 2


@pytest.mark.parametrize("code", ["INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE"])
def test_a_fault_of_one_replica_is_mended_by_the_other(code):
    sick = FakeTeacher(before=only("Score", abort(grpc.StatusCode[code])))
    well = FakeTeacher()
    with serving(sick, well) as addresses, TeacherClient(addresses) as client:
        known(client, [sick, well])
        sources, targets = pairs(8)
        result = client.score(sources, targets, ARGMAX)
    assert result.token_log_probs_P.tolist() == expected(sources, targets)
    assert well.seen == {s[0]: 1 for s in sources} and not sick.seen
    assert sick.calls["Score"] >= 1


def test_health_decides_who_is_asked():
    teachers = [FakeTeacher(), FakeTeacher()]
    with serving(*teachers) as addresses, TeacherClient(addresses) as client:
        known(client, teachers)
        away, here = teachers
        away.health.set("teacher.v1.TeacherService", 2)  # NOT_SERVING
        replicas = client._client._fleet.replicas
        wait_until(lambda: sorted(r.serving for r in replicas) == [False, True])
        for _ in range(4):
            client.score([[5, 1]], [[7]], ARGMAX)
        assert (away.calls["Score"], here.calls["Score"]) == (0, 4)
        away.health.set("teacher.v1.TeacherService", 1)
        wait_until(lambda: all(r.serving for r in replicas))
        client.score([[5, 1]], [[7]], ARGMAX)
        assert away.calls["Score"] == 1


def test_a_new_replica_gets_work_and_one_that_left_gets_none():
    """Addresses of a name are read again after ``refresh_s``, though nobody failed."""
    now, records = [0.0], ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str) -> list[str]:
        assert host == "teachers"
        return list(records)

    first = FakeTeacher()
    with serving(first) as (address,):
        port = address.rpartition(":")[2]
        others = [FakeTeacher(address=f"127.0.0.{n}:{port}") for n in (2, 3)]
        with serving(*others):
            second, new = others
            with TeacherClient(
                f"teachers:{port}", refresh_s=30, clock=lambda: now[0], lookup=lookup
            ) as client:
                known(client, [first, second])
                records[:] = ["127.0.0.2", "127.0.0.3"]
                for _ in range(4):
                    client.score([[5, 1]], [[7]], ARGMAX)
                assert first.calls["Score"] == second.calls["Score"] == 2
                now[0] += 31
                fleet = client._client._fleet
                client.score([[5, 1]], [[7]], ARGMAX)  # does not wait for the name server
                wait_until(lambda: {str(r)[:9] for r in fleet.replicas} == set(records))
                known(client, [second, new])
                first.calls.clear()
                for _ in range(4):
                    client.score([[5, 1]], [[7]], ARGMAX)
                assert [t.calls["Score"] for t in (first, second, new)] == [0, 2, 2]


def test_a_request_under_way_at_a_replica_that_leaves_is_answered(tmp_path):
    """The file of addresses loses a replica in the middle of its answer."""
    release, now = threading.Event(), [0.0]
    slow = FakeTeacher(before=only("Score", lambda *_: release.wait(10)))
    with serving(slow, FakeTeacher()) as (leaving, staying):
        file = tmp_path / "teachers"
        file.write_text(leaving)
        with TeacherClient(f"file:{file}", refresh_s=30, clock=lambda: now[0]) as client:
            client.model_info()
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(client.score, [[5, 1]], [[7]], ARGMAX)
                wait_until(lambda: slow.calls["Score"] == 1)
                file.write_text(staying)
                now[0] += 31
                fleet = client._client._fleet
                client.model_info()
                wait_until(lambda: [str(r) for r in fleet.replicas] == [staying])
                assert not call.done()
                release.set()
                assert call.result(10).token_log_probs_P.tolist() == expected([[5]], [[7]])
            wait_until(lambda: len(fleet._lines) == 1)


# ---------------------------------------------------------------------------------------- agreement


def test_a_replica_of_another_revision_is_refused_with_both_named():
    teachers = [FakeTeacher(), FakeTeacher(revision="sha256:two")]
    with serving(*teachers) as addresses:
        with TeacherClient(addresses) as client:
            with pytest.raises(errors.TeacherMismatch) as caught:
                client.wait_ready(10)
        message = str(caught.value)
        assert all(part in message for part in (*addresses, "sha256:one", "sha256:two"))
        assert "\n" not in message


def test_a_replica_of_another_revision_never_answers_even_unasked_before(caplog):
    """It is asked who it is, is told of once, and the other one answers everything."""
    right, wrong = FakeTeacher(), FakeTeacher(revision="sha256:two")
    with serving(right, wrong) as addresses:
        with TeacherClient(addresses, random=lambda: 0.0) as client:
            for _ in range(5):
                sources, targets = pairs(8)
                result = client.score(sources, targets, ARGMAX)
                assert result.token_log_probs_P.tolist() == expected(sources, targets)
    assert wrong.calls == {"GetModelInfo": 1} and right.calls["Score"] == 20
    (line,) = [r.getMessage() for r in caplog.records if "is not used" in r.getMessage()]
    assert addresses[1] in line and "sha256:one" in line and "sha256:two" in line


def test_where_every_replica_is_of_another_revision_than_named_the_call_ends():
    teachers = [FakeTeacher(revision="sha256:two"), FakeTeacher(revision="sha256:two")]
    with serving(*teachers) as addresses:
        with TeacherClient(addresses, expected_revision="sha256:one") as client:
            with pytest.raises(errors.TeacherMismatch, match=r"sha256:one.*sha256:two"):
                client.score(*pairs(2), ARGMAX)
    assert not any(t.seen for t in teachers)


def test_a_replica_that_comes_back_with_another_model_is_not_used(caplog):
    """Health says that it was away: it is asked who it is before it is asked anything else."""
    staying, changing = FakeTeacher(), FakeTeacher()
    with serving(staying, changing) as addresses, TeacherClient(addresses) as client:
        known(client, [staying, changing])
        for _ in range(4):
            client.score([[5, 1]], [[7]], ARGMAX)
        assert changing.calls["Score"] == 2
        _, changed = client._client._fleet.replicas
        changing.health.set("teacher.v1.TeacherService", 2)
        wait_until(lambda: changed.serving is False)
        changing.revision = "sha256:two"
        changing.health.set("teacher.v1.TeacherService", 1)
        wait_until(lambda: changed.serving is True)
        for _ in range(4):
            client.score([[5, 1]], [[7]], ARGMAX)
        assert changing.calls["Score"] == 2 and changed.admitted is False
        assert "is not used" in caplog.text
        changing.health.set("teacher.v1.TeacherService", 2)
        wait_until(lambda: changed.serving is False)
        changing.revision = "sha256:one"
        changing.health.set("teacher.v1.TeacherService", 1)
        wait_until(lambda: changed.serving is True)
        for _ in range(4):
            client.score([[5, 1]], [[7]], ARGMAX)
        assert changing.calls["Score"] > 2, "the right model is used again"


def test_a_replica_that_does_not_say_who_it_is_costs_no_request(monkeypatch):
    """It joined and hangs: others answer what was on its way to it."""
    monkeypatch.setattr("teacher_service.fleet.REPORT_S", 0.2)
    well, mute = FakeTeacher(), FakeTeacher(before=only("GetModelInfo", hang))
    with serving(well, mute) as addresses:
        with TeacherClient(addresses, random=lambda: 0.0, timeout_s=20) as client:
            sources, targets = pairs(12)
            result = client.score(sources, targets, ARGMAX)
    assert result.token_log_probs_P.tolist() == expected(sources, targets)
    assert not mute.seen and mute.calls["Score"] == 0


def test_every_replica_reports_for_itself():
    teachers = [FakeTeacher(), FakeTeacher(revision="sha256:two")]
    with serving(*teachers) as addresses:
        with TeacherClient([*addresses, "127.0.0.1:9"]) as client:
            reports = client.replicas()
    assert [r.address for r in reports] == [*addresses, "127.0.0.1:9"]
    assert [r.info.revision for r in reports if r.info] == ["sha256:one", "sha256:two"]
    assert isinstance(reports[2].error, errors.TeacherUnavailable)


# ---------------------------------------------------------------------------- deadlines and endings


def test_the_overall_deadline_holds_where_all_replicas_hang():
    teachers = [FakeTeacher(before=only("Score", hang)) for _ in range(2)]
    with serving(*teachers) as addresses, TeacherClient(addresses, timeout_s=0.6) as client:
        known(client, teachers)
        begun = time.monotonic()
        with pytest.raises(errors.TeacherTimeout, match=r"in 0\.6 s"):
            client.score([[5, 1]], [[7]], ARGMAX)
        assert 0.4 < time.monotonic() - begun < 2.0
        assert all(t.calls["Score"] >= 1 for t in teachers)


def test_cancelling_the_task_cancels_the_rpc():
    teacher = FakeTeacher(before=only("Score", hang))

    async def main(address: str) -> None:
        async with AsyncTeacherClient(address) as client:
            await client.model_info()
            assert teacher.ended.acquire(timeout=30)
            task = asyncio.create_task(client.score([[5, 1]], [[7]], ARGMAX))
            while not teacher.calls["Score"]:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(teacher.ended.acquire, timeout=5)
            assert [r.outstanding for r in client._fleet.replicas] == [0]
            teacher.before = lambda *_: None
            assert (await client.score([[5, 1]], [[7]], ARGMAX)).lengths_B.tolist() == [1]

    with serving(teacher) as (address,):
        LoopThread.shared().submit(main(address)).result(60)


@pytest.mark.parametrize("payload", [ARGMAX, FULL], ids=["Score", "ScoreStream"])
def test_many_tasks_share_one_asyncio_client(payload):
    teachers = [FakeTeacher(), FakeTeacher()]

    async def main(addresses: list[str]) -> None:
        async with AsyncTeacherClient(addresses) as client:
            await client.wait_ready(10)
            calls = [pairs(5, first=1 + 5 * n) for n in range(12)]
            results = await asyncio.gather(*(client.score(*c, payload) for c in calls))
        for call, result in zip(calls, results, strict=True):
            assert result.token_log_probs_P.tolist() == expected(*call)

    with serving(*teachers) as addresses:
        LoopThread.shared().submit(main(addresses)).result(60)
    assert teachers[0].seen + teachers[1].seen == dict.fromkeys(range(1, 61), 1)


def test_one_client_is_shared_between_threads():
    teachers = [FakeTeacher(), FakeTeacher()]
    calls = [pairs(5, first=1 + 5 * n) for n in range(12)]
    with serving(*teachers) as addresses, TeacherClient(addresses) as client:
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda call: client.score(*call, ARGMAX), calls))
    for call, result in zip(calls, results, strict=True):
        assert result.token_log_probs_P.tolist() == expected(*call)
    assert teachers[0].seen + teachers[1].seen == dict.fromkeys(range(1, 61), 1)


def test_a_protocol_error_in_a_stream_closes_the_rpc():
    teacher = FakeTeacher(gap=1)
    with serving(teacher) as (address,), TeacherClient(address) as client:
        client.model_info()
        assert teacher.ended.acquire(timeout=5)
        with pytest.raises(errors.TeacherProtocolError, match=r"position 2 of 2, expected 1"):
            client.score([[5, 1], [6, 1]], [[7], [8]], FULL)
        assert teacher.ended.acquire(timeout=5), "the server is still sending"
        teacher.hold.set()


def test_closing_ends_the_calls_under_way():
    teacher = FakeTeacher(before=only("Score", hang))
    with serving(teacher) as (address,), ThreadPoolExecutor(1) as pool:
        client = TeacherClient(address)
        call = pool.submit(client.score, [[5, 1]], [[7]], ARGMAX)
        wait_until(lambda: teacher.calls["Score"] == 1)
        client.close()
        with pytest.raises(errors.TeacherUnavailable, match="the client was closed"):
            call.result(10)
        with pytest.raises(errors.TeacherUnavailable, match="the client was closed"):
            client.model_info()
        client.close()


def test_closing_the_asyncio_client_ends_the_calls_under_way():
    teacher = FakeTeacher(before=only("Score", hang))

    async def main(address: str) -> None:
        client = AsyncTeacherClient(address)
        task = asyncio.create_task(client.score([[5, 1]], [[7]], ARGMAX))
        while not teacher.calls["Score"]:
            await asyncio.sleep(0.005)
        await client.close()
        with pytest.raises(errors.TeacherUnavailable, match="the client was closed"):
            await task

    with serving(teacher) as (address,):
        LoopThread.shared().submit(main(address)).result(60)


def test_an_asyncio_client_is_of_one_loop():
    client = AsyncTeacherClient("file:/nonexistent/teachers", timeout_s=0.05)
    for fault in ("No such file", "used on another event loop; build one in each"):
        with pytest.raises(errors.TeacherUnavailable, match=fault):
            asyncio.run(client.model_info())


def test_all_clients_share_one_thread():
    def threads() -> int:
        return sum(t.name == "teacher-client" for t in threading.enumerate())

    with serving(FakeTeacher()) as (address,):
        with TeacherClient(address) as one, TeacherClient(address) as two:
            one.model_info()
            two.model_info()
            assert threads() == 1
        assert threads() == 1, "it waits for the next client"


def test_a_client_is_not_pickled():
    with pytest.raises(TypeError, match="build one in each process"):
        pickle.dumps(TeacherClient("127.0.0.1:9"))


def test_a_forked_child_is_told_at_once_and_may_build_its_own():
    code = """
import os, sys
from teacher_service.client import TeacherClient
from teacher_service.errors import TeacherUnavailable
client = TeacherClient("127.0.0.1:9", timeout_s=0.05)
def ask(client):
    try:
        client.model_info()
    except TeacherUnavailable as error:
        return str(error)
ask(client)
child = os.fork()
if child == 0:
    print(ask(client), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "127.0.0.1:9: the client was made in another process; build one in each\n"
    )


def test_interrupting_a_blocking_call_leaves_no_request_behind(monkeypatch):
    """As Ctrl-C does while the caller waits."""
    from concurrent.futures import Future

    teacher = FakeTeacher(before=only("Score", hang))
    with serving(teacher) as (address,), TeacherClient(address) as client:
        client.model_info()
        assert teacher.ended.acquire(timeout=5)

        def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
            wait_until(lambda: teacher.calls["Score"] == 1)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.score([[5, 1]], [[7]], ARGMAX)
        assert teacher.ended.acquire(timeout=5)


def test_replicas_of_a_name_show_a_certificate_for_the_name(tmp_path):
    """Dialled by IP address, checked against the name; the second machine is away."""
    trustme = pytest.importorskip("trustme")
    from teacher_service.server import ServerThread
    from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

    async def lookup(_: str) -> list[str]:
        return ["127.0.0.1", "127.0.0.9"]

    authority = trustme.CA()
    certificate = authority.issue_cert("teachers.test")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    roots = authority.cert_pem.bytes()
    save_tiny_teacher(tmp_path / "model")
    config = tiny_config(
        tmp_path / "model", tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"
    )
    with ServerThread(config) as server:
        port = server.address.rpartition(":")[2]
        name = f"teachers.test:{port}"
        with TeacherClient(name, root_certificates=roots, lookup=lookup) as client:
            client.wait_ready(30)
            for _ in range(3):
                assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]
        wrong = f"other.test:{port}"
        with TeacherClient(wrong, root_certificates=roots, lookup=lookup, timeout_s=0.5) as client:
            with pytest.raises(errors.TeacherUnavailable):
                client.model_info()
