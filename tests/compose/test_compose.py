"""docker-compose.yml on a real engine: `make test-compose`.

The tests are one story in order: what is in the images, the teacher alone, the demo with machines
that come and die, a job submitted to the same cluster, another during which a machine is cut off
the network, runs of which one fails and one ends well, and what is left. From the environment
BUILD_ARGS ("TORCH_INDEX_URL=...") goes to the builds; DEMO_STEPS=600 makes it the whole demo.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compose.callers import imitkd, ray_job, score
from tests.compose.images import image, kind, secrets_in_history, stray_files
from tests.compose.recorded import student_bleu, teacher_bleu
from tests.compose.sockets import listening, listening_udp, told
from tests.compose.stack import Stack, batches, compose_command, docker, writers

COMPOSE = compose_command()
pytestmark = [
    pytest.mark.skipif(COMPOSE is None, reason="no Docker engine with Compose answers"),
    pytest.mark.timeout(1500),
]
CORPUS = "ui-strings-en-de"
STEPS = int(os.environ.get("DEMO_STEPS", "300"))
SERVICES = ("prepare", "teacher", "ray-head", "worker", "trainer")
TEACHER_PORTS = {50051, 9400}
FETCH = "import urllib.request as r; print(r.urlopen('http://worker:8080/metrics').read().decode())"
SCRAPE = ("python", "-c", FETCH)


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
    stack.compose("build", *arguments, "teacher", "trainer", timeout_s=1000)
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)


@pytest.mark.parametrize("target", ["teacher", "trainer"])
def test_an_image_holds_no_secret_and_only_what_it_needs(stack: Stack, target: str) -> None:
    name = image(target)
    assert secrets_in_history(name) == [] and stray_files(name) == []
    built_for = os.environ.get("TORCH_BUILD", "cpu")
    found = kind(name)
    assert (found["cuda"] is None) == (built_for == "cpu")
    assert found["ray"] == (target == "trainer")


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
    said = score(stack, token)
    assert ("unauthenticated" if token is None else "permission_denied") in said


def test_the_demo_with_machines_that_come_and_die(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("up", "-d", OVERRIDES=f"optimiser.steps={STEPS}")
    stack.wait_until(lambda: len(batches(stack.run)) >= 15, "15 batches", 300)
    assert len(writers(stack.run, 0)) == 1
    look_around(stack)
    machines_join(stack)
    the_teacher_dies(stack)
    a_machine_dies(stack)
    (trainer,) = stack.containers("trainer")
    stack.wait_until(lambda: not stack.state(trainer)["Running"], "the end of the demo", 1200)
    assert stack.state(trainer)["ExitCode"] == 0, stack.logs("trainer")
    check_results(stack)
    shown_again(stack, trainer)
    print(f"from `up` to the summary {time.monotonic() - began:.0f} s")


def machines_join(stack: Stack) -> None:
    """More of them while the run is on, and each takes shards."""
    more = ("--no-recreate", "--no-deps", "--scale", "worker=3", "worker")
    stack.compose("up", "-d", *more)
    joined = len(batches(stack.run))

    def all_at_work() -> bool:
        shares = writers(stack.run, joined).values()
        return len(shares) == 3 and min(shares) >= 5

    stack.wait_until(all_at_work, "shards of three machines", 240)
    workers = {c[:12] for c in stack.containers("worker")}
    assert set(writers(stack.run, joined)) == workers and len(workers) == 3


def the_teacher_dies(stack: Stack) -> None:
    """Its process, and comes back by itself; then its container, which is started again."""
    (teacher,) = stack.containers("teacher")
    stack.crash(teacher)
    died = len(batches(stack.run))
    stack.wait_until(lambda: len(batches(stack.run)) >= died + 15, "batches after the teacher", 240)
    assert json.loads(docker("inspect", teacher))[0]["RestartCount"] >= 1
    docker("kill", teacher)
    stack.wait_until(lambda: not stack.state(teacher)["Running"], "the teacher's end", 30)
    docker("start", teacher)
    died = len(batches(stack.run))
    stack.wait_until(lambda: len(batches(stack.run)) >= died + 10, "batches after the kill", 240)


def a_machine_dies(stack: Stack) -> None:
    """With what it was at, and for good."""
    gone = min(stack.containers("worker"))
    docker("kill", gone)
    died = len(batches(stack.run))
    stack.wait_until(lambda: len(batches(stack.run)) >= died + 15, "batches after a machine", 300)
    assert gone[:12] not in writers(stack.run, died + 10)


def look_around(stack: Stack) -> None:
    """Which ports where, as which user, and what they tell those who have no token."""
    ports = docker("ps", "--filter", f"label=com.docker.compose.project={stack.project}",
                   "--format", "{{.Ports}}")  # fmt: skip
    published = {p.strip() for x in ports.splitlines() for p in x.split(",") if "->" in p}
    assert published == {f"127.0.0.1:{stack.port}->50051/tcp"}
    ray: list[str] = []
    for service in SERVICES:
        (container,) = stack.containers(service)
        processes = docker("top", container, "-eo", "uid,pid").splitlines()[1:]
        users = {line.split()[0] for line in processes}
        assert users == {"1000"}, (service, users)
        assert json.loads(docker("inspect", container))[0]["HostConfig"]["ReadonlyRootfs"]
        sockets = listening(container)
        assert all(s.user == 1000 for s in sockets), (service, sockets)
        assert not listening_udp(container), service
        if service == "prepare":
            assert not sockets
        elif service == "teacher":
            assert {s.port for s in sockets} == TEACHER_PORTS
        else:
            assert len(sockets) > 3, "no Ray listens; has the scan found nothing?"
            ray += [f"{stack.address(container)}:{s.port}" for s in sorted(sockets)]
    (teacher,) = stack.containers("teacher")
    for address, answer in told(teacher, ray).items():
        print(address, refusal(address, answer))
    stack.wait_until(
        lambda: "ray_imitkd_sentences_written_total" in docker("exec", teacher, *SCRAPE),
        "what a worker counts among Ray's metrics",
        60,
    )


def refusal(address: str, answer: dict[str, dict[str, Any]]) -> str:
    """How a port of Ray's refuses; without a token it shows an empty page, or numbers, alone."""
    codes, pages = set(answer["grpc"].values()), dict(answer["http"])
    assert codes <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, (address, answer)
    assert pages.pop("/") in (200, 401, 404, None, "numbers"), (address, answer)
    seen = set(pages.values())
    assert seen <= {401, 404, None} or seen == {"numbers"}, (address, answer)
    (how,) = {"UNAUTHENTICATED", 401, "numbers"} & (codes | seen)
    return str(how)


def check_results(stack: Stack) -> None:
    """The demo's summary in the mounted folder, within the demo's band, and a ledger that holds."""
    summary: dict[str, Any] = json.loads((stack.run / "summary.json").read_text())
    bleu = summary["student"]["bleu"]
    print(f"student {bleu:.2f} BLEU in {summary['train_seconds']:.0f} s")
    assert summary["batches"] == STEPS and summary["test_sentences"] == 1000
    least, most = teacher_bleu()
    assert least < summary["teacher"]["bleu"] < most
    least, most = student_bleu(STEPS)
    assert least < bleu < most
    account = ledger(stack, stack.run)
    assert account["batches"] == STEPS and account["quarantined"] == []
    assert account["repeated"] > 0, "machines died with shards in their hands"
    assert len(account["hosts"]) == 3 and min(account["hosts"].values()) >= 5
    print(json.dumps({k: account[k] for k in ("sentences", "repeated", "hosts")}))


def shown_again(stack: Stack, trainer: str) -> None:
    """A trainer that is started once more shows what it has, and takes nothing of it away."""
    results = ("summary.json", "ledger.jsonl", "student/model.safetensors")
    before = [(stack.run / name).read_bytes() for name in results]
    stack.compose("up", "-d", "--no-recreate", "--no-deps", "trainer")
    stack.wait_until(lambda: not stack.state(trainer)["Running"], "the summary once more", 180)
    assert stack.state(trainer)["ExitCode"] == 0, stack.logs("trainer")
    assert "is trained already" in docker("logs", trainer)
    assert [(stack.run / name).read_bytes() for name in results] == before


def ledger(stack: Stack, run: Path) -> dict[str, Any]:
    """The account of a run whose ledger holds."""
    corpus = str(stack.folder / "data" / CORPUS)
    account: dict[str, Any] = json.loads(imitkd("ledger", str(run), "--corpus", corpus, "--json"))
    assert account["holds"]
    return account


def job(run: str, *overrides: str) -> tuple[str, ...]:
    """What is submitted: a training run on the corpus and with the teacher of the demo."""
    return (
        "--", "imitkd", "train", "configs/ui_strings/demo.yaml", "--output", f"runs/{run}",
        "teacher.address=teacher:50051", "teacher.token_file=/secrets/client/token",
        "teacher.root_certificates=/secrets/authority/ca.pem", "workers=2",
        "validation.sentences=20", *overrides,
    )  # fmt: skip


def test_a_job_is_submitted_to_the_cluster(stack: Stack) -> None:
    """From one of its nodes, which has the token; the driver and the learner run on the head."""
    workers = sorted(stack.containers("worker"))
    assert len(workers) == 2
    for refused in ({"RAY_AUTH_MODE": "disabled"}, WRONG_TOKEN):
        done = ray_job(workers[0], "submit", *job("job", "optimiser.steps=12"), **refused)
        assert done.returncode != 0 and "Authentication" in done.stdout + done.stderr, done
    assert not (stack.folder / "runs" / "job").exists()

    done = ray_job(workers[0], "submit", *job("job", "optimiser.steps=12"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done after 12 steps" in done.stdout and "succeeded" in done.stdout
    account = ledger(stack, stack.folder / "runs" / "job")
    assert account["batches"] == 12
    assert set(account["hosts"]) == {w[:12] for w in workers}

    done = ray_job(workers[0], "submit", *job("job", "optimiser.steps=0"))
    assert done.returncode != 0 and "optimiser.steps" in done.stdout and "failed" in done.stdout


def test_a_machine_cut_off_the_network_comes_back(stack: Stack) -> None:
    """In a run that lasts until all this has been seen; stopped as a job, its ledger holds."""
    run = stack.folder / "runs" / "cut"
    head, cut = stack.containers("ray-head")[0], min(stack.containers("worker"))
    inside = f"{stack.project}_inside"

    def goes_on(batches_more: int, what: str) -> None:
        since = len(batches(run))
        stack.wait_until(lambda: len(batches(run)) >= since + batches_more, what, 300, "ray-head")

    begun = ("submit", "--no-wait", "--submission-id", "cut")
    done = ray_job(head, *begun, *job("cut", "optimiser.steps=100000"))
    assert done.returncode == 0, done.stdout + done.stderr
    goes_on(15, "batches")
    docker("network", "disconnect", inside, cut)
    goes_on(15, "batches after the cut")
    docker("network", "connect", "--alias", "worker", inside, cut)
    joined = len(batches(run))

    def at_work_again() -> bool:
        return writers(run, joined).get(cut[:12], 0) >= 5

    stack.wait_until(at_work_again, "shards of the machine cut off", 300, "ray-head")
    done = ray_job(head, "stop", "cut")
    assert done.returncode == 0, done.stdout + done.stderr
    account = ledger(stack, run)
    assert account["repeated"] > 0 and len(account["hosts"]) == 2


WRONG_TOKEN = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""}


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, WRONG_TOKEN])
def test_without_its_token_nobody_joins_the_cluster(stack: Stack, given: dict[str, str]) -> None:
    (head,) = stack.containers("ray-head")
    variables = [x for item in given.items() for x in ("-e", "=".join(item))]
    ask = ("ray", "health-check", "--address", "ray-head:6379")
    docker("exec", head, *ask)
    done = subprocess.run(["docker", "exec", *variables, head, *ask], capture_output=True)
    assert done.returncode != 0


SHORT = "optimiser.steps=20 validation.sentences=20 --sentences 50"


@pytest.mark.parametrize(("overrides", "code"), [("optimiser.steps=0", 2), (SHORT, 0)])
def test_the_trainers_exit_code_is_that_of_compose(stack: Stack, overrides: str, code: int) -> None:
    """It ends the whole stack with its own status: where it refuses its settings, and when done."""
    runs = stack.folder / "runs-of-others"
    done = stack.compose(
        "up", "--exit-code-from", "trainer",
        OVERRIDES=overrides, IMITKD_RUNS=str(runs), check=False, timeout_s=900,
    )  # fmt: skip
    assert done.returncode == code, stack.logs()
    assert "optimiser.steps" in done.stdout and not stack.containers("teacher")
    if code == 0:
        summary = json.loads((runs / "demo" / "summary.json").read_text())
        assert (summary["batches"], summary["test_sentences"]) == (20, 50)


def test_nothing_is_left(stack: Stack) -> None:
    stack.compose("down", "--volumes", "--timeout", "20")
    assert stack.leftovers() == ""
