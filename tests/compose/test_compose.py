"""docker-compose.yml on a real engine: `make test-compose`. Takes about a quarter of an hour.

The tests are one story in order: a run that fails, the whole demo with machines that come, go and
die, and what is left. BUILD_ARGS of the environment go to the builds ("PIP_EXTRA_INDEX_URL=...").
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compose.stack import ROOT, Stack, compose_command, docker

COMPOSE = compose_command()
pytestmark = [
    pytest.mark.skipif(COMPOSE is None, reason="no Docker engine with Compose answers"),
    pytest.mark.timeout(2400),
]
CORPUS = "ui-strings-en-de"
# The demo's student, greedy, has about 34.3; processors differ in the last bits of their sums.
BLEU = (32.5, 36.5)
TEACHER_BLEU = (39.0, 40.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Images, and a project with empty folders but for the corpus; all of it gone at the end."""
    folder = tmp_path_factory.mktemp("compose")
    imitkd("data", "prepare", CORPUS, "--out", str(folder / "data" / CORPUS))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert COMPOSE is not None
    stack = Stack(COMPOSE, f"imitkd-test-{os.getpid()}", folder, port)
    arguments = [x for a in os.environ.get("BUILD_ARGS", "").split() for x in ("--build-arg", a)]
    stack.compose("build", *arguments, "teacher", "trainer", timeout_s=1200)
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)


def imitkd(*arguments: str) -> str:
    """A command on this machine, outside of all containers."""
    done = subprocess.run(
        [sys.executable, "-m", "imitkd", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_trainers_exit_code_is_that_of_compose(stack: Stack) -> None:
    """Everything starts in order of health, and a trainer that refuses its settings ends it all."""
    done = stack.compose(
        "up", "--exit-code-from", "trainer", OVERRIDES="optimiser.steps=0", check=False
    )
    assert done.returncode == 2, stack.logs()
    assert "optimiser.steps" in done.stdout and not stack.containers("teacher")
    stack.compose("down")


def test_the_teacher_alone_answers_from_outside(stack: Stack) -> None:
    stack.compose("up", "-d", "teacher")
    (teacher,) = stack.containers("teacher")
    stack.wait_until(
        lambda: stack.state(teacher)["Health"]["Status"] == "healthy",
        "a healthy teacher",
        120,
        during="teacher",
    )
    reply = json.loads(score(stack, token=(stack.secrets / "client" / "token").read_text().strip()))
    tensor = reply["tokenLogProbs"]
    found = np.frombuffer(base64.b64decode(tensor["data"]), np.dtype("<f2"))
    assert len(found) == 3 and (found < 0).all()
    assert stack.containers("ray-head") == []


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_its_token_the_teacher_answers_nothing(stack: Stack, token: str | None) -> None:
    said = score(stack, token, check=False)
    assert ("unauthenticated" if token is None else "permission_denied") in said


def score(stack: Stack, token: str | None, check: bool = True) -> str:
    """Ask over TLS on the published port with a client not written here."""
    buf = Path(sys.executable).with_name("buf")
    request = {
        "sequences": [{"sourceIds": [17, 5, 1], "targetIds": [40, 8, 1]}],
        "payload": {"kind": "PAYLOAD_KIND_TOP_K", "k": 4},
    }
    bearer = [] if token is None else ["--header", f"authorization: Bearer {token}"]
    done = subprocess.run(
        [
            str(buf) if buf.exists() else shutil.which("buf") or "buf",
            "curl", "--protocol", "grpc", "--schema", "protos",
            "--cacert", str(stack.secrets / "authority" / "ca.pem"), *bearer,
            "--data", json.dumps(request),
            f"https://localhost:{stack.port}/teacher.v1.TeacherService/Score",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_demo_with_machines_that_come_and_go(stack: Stack) -> None:
    stack.compose("up", "-d")
    stack.wait_until(lambda: len(stack.batches()) >= 20, "20 batches", 300)
    look_around(stack)
    assert len(stack.writers(0)) == 1

    # More machines while the run is on.
    stack.compose("up", "-d", "--no-recreate", "--scale", "worker=3")
    joined = len(stack.batches())

    def all_at_work() -> bool:
        shares = stack.writers(joined).values()
        return len(shares) == 3 and min(shares) >= 10

    stack.wait_until(all_at_work, "shards of three machines", 240)
    workers = {c[:12] for c in stack.containers("worker")}
    assert set(stack.writers(joined)) == workers and len(workers) == 3

    # The teacher dies, and comes back by itself.
    (teacher,) = stack.containers("teacher")
    stack.crash(teacher)
    died = len(stack.batches())
    stack.wait_until(lambda: len(stack.batches()) >= died + 20, "batches after the teacher", 240)
    assert json.loads(docker("inspect", teacher))[0]["RestartCount"] >= 1

    # A machine dies with what it was at, for good; another is cut off and comes back.
    gone, cut = sorted(stack.containers("worker"))[:2]
    inside = f"{stack.project}_inside"
    docker("kill", gone)
    docker("network", "disconnect", inside, cut)
    died = len(stack.batches())
    stack.wait_until(lambda: len(stack.batches()) >= died + 20, "batches after the cut", 300)
    docker("network", "connect", "--alias", "worker", inside, cut)
    joined = len(stack.batches())
    stack.wait_until(
        lambda: stack.writers(joined).get(cut[:12], 0) >= 5, "shards of the machine cut off", 300
    )
    assert gone[:12] not in stack.writers(joined)

    (trainer,) = stack.containers("trainer")
    stack.wait_until(lambda: not stack.state(trainer)["Running"], "the end of the demo", 1500)
    assert stack.state(trainer)["ExitCode"] == 0, stack.logs("trainer")
    check_results(stack)


def look_around(stack: Stack) -> None:
    """Which ports of this machine, as which user, and whom Ray lets in."""
    ports = docker("ps", "--filter", f"label=com.docker.compose.project={stack.project}",
                   "--format", "{{.Ports}}")  # fmt: skip
    published = {p.strip() for x in ports.splitlines() for p in x.split(",") if "->" in p}
    assert published == {f"127.0.0.1:{stack.port}->50051/tcp"}
    for service in ("prepare", "teacher", "ray-head", "worker", "trainer"):
        for container in stack.containers(service):
            processes = docker("top", container, "-eo", "uid,pid").splitlines()[1:]
            users = {line.split()[0] for line in processes}
            assert users == {"1000"}, (service, users)
            read_only = docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container)
            assert read_only.strip() == "true"
    (head,) = stack.containers("ray-head")
    ask = ("ray", "health-check", "--address", "ray-head:6379")
    docker("exec", head, *ask)
    for mode in (("RAY_AUTH_MODE=disabled",), ("RAY_AUTH_TOKEN_PATH=", "RAY_AUTH_TOKEN=wrong")):
        given = [x for variable in mode for x in ("-e", variable)]
        done = subprocess.run(
            ["docker", "exec", *given, head, *ask], capture_output=True, text=True
        )
        assert done.returncode != 0, mode


def check_results(stack: Stack) -> None:
    """The demo's summary in the mounted folder, within the demo's band, and a ledger that holds."""
    summary: dict[str, Any] = json.loads((stack.run / "summary.json").read_text())
    assert summary["batches"] == 600 and summary["test_sentences"] == 1000
    assert TEACHER_BLEU[0] < summary["teacher"]["bleu"] < TEACHER_BLEU[1]
    assert BLEU[0] < summary["student"]["bleu"] < BLEU[1]
    corpus = str(stack.folder / "data" / CORPUS)
    account = json.loads(imitkd("ledger", str(stack.run), "--corpus", corpus, "--json"))
    assert account["holds"] and account["batches"] == 600 and account["quarantined"] == []
    assert account["repeated"] > 0, "machines died with shards in their hands"
    assert len(account["hosts"]) == 3 and min(account["hosts"].values()) >= 10
    print(json.dumps({k: account[k] for k in ("sentences", "repeated", "hosts")}))
    print(f"student {summary['student']['bleu']:.2f} BLEU in {summary['train_seconds']:.0f} s")


def test_nothing_is_left(stack: Stack) -> None:
    stack.compose("down", "--volumes", "--timeout", "20")
    assert stack.leftovers() == ""
