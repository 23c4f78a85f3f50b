"""The stack of docker-compose.yml on a real engine, as a test drives it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def compose_command() -> list[str] | None:
    """`docker compose` or `docker-compose`, where an engine answers; None where none does."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if _works([*command, "version"]) and _works(["docker", "info"]):
            return command
    return None


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Stack:
    """One project of Compose, with folders of its own.

    Attributes:
        run: the demo's run directory on this machine.
    """

    def __init__(self, command: list[str], project: str, folder: Path, port: int) -> None:
        self._command = [*command, "-f", str(ROOT / "docker-compose.yml"), "-p", project]
        self.project, self.folder, self.port = project, folder, port
        self.run = folder / "runs" / "demo"
        self.secrets = folder / "secrets"
        self._environment = os.environ | {
            "IMITKD_RUNS": str(folder / "runs"),
            "IMITKD_DATA": str(folder / "data"),
            "IMITKD_SECRETS": str(self.secrets),
            "TEACHER_PORT": str(port),
        }

    def compose(
        self, *arguments: str, check: bool = True, timeout_s: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of Compose."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers that run."""
        labels = [f"project={self.project}", f"service={service}"]
        filters = [x for label in labels for x in ("--filter", f"label=com.docker.compose.{label}")]
        return docker("ps", "-q", "--no-trunc", *filters).split()

    def state(self, container: str) -> dict[str, Any]:
        """What the engine says of a container."""
        found: dict[str, Any] = json.loads(docker("inspect", container))[0]["State"]
        return found

    def address(self, container: str) -> str:
        """A container's address on the inner network."""
        networks = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_inside"]["IPAddress"])

    def crash(self, container: str) -> None:
        """Kill all its processes but the first, which then ends; the engine restarts it."""
        docker("exec", container, "sh", "-c", "kill -9 -1", check=False)

    def wait_until(
        self, met: Callable[[], bool], what: str, timeout_s: float, during: str = "trainer"
    ) -> None:
        """Return when ``met``; fail early where the service ``during`` ended before."""
        until = time.monotonic() + timeout_s
        while not met():
            if not self.containers(during) and not met():
                raise AssertionError(f"{during} ended before {what}: {self.logs(during)}")
            if time.monotonic() > until:
                raise AssertionError(f"{what} did not come in {timeout_s:.0f} s: {self.logs()}")
            time.sleep(1)

    def logs(self, *services: str) -> str:
        """The end of what containers said."""
        done = self.compose("logs", "--no-color", "--tail", "40", *services, check=False)
        return done.stdout[-6000:]

    def leftovers(self) -> str:
        """Containers, networks and volumes of the project."""
        label = ("--filter", f"label=com.docker.compose.project={self.project}")
        kinds = (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
        return "".join(docker(*kind, *label) for kind in kinds)


def batches(run: Path) -> list[dict[str, Any]]:
    """Batches that a run's ledger holds now."""
    return [r for r in _lines(run / "ledger.jsonl") if r["kind"] == "batch"]


def writers(run: Path, since: int) -> Counter[str]:
    """By machine, the shards it wrote from batch ``since`` on."""
    found = [host for r in batches(run) if r["batch"] >= since for host in r["hosts"]]
    return Counter(found)


def docker(*arguments: str, check: bool = True) -> str:
    """Standard output of a command of the engine."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole JSON lines; one that is being written does not count."""
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        yield json.loads(line)
