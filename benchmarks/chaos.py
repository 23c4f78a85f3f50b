"""A soak: teacher, workers, learner and driver are killed -9 at random while a student trains.

The run must end with a ledger that holds and with the losses and weights of an undisturbed run; the
teacher is served deterministically, so "the same" means bit by bit. ``lost_share`` is what the
deaths cost in steps run twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from benchmarks.form import Figure, Result, run

_POLL_S = 0.01
_PATIENCE_S = 240.0
_RESTARTS = 3
WORKER, LEARNER = "ray::RolloutActor", "ray::LearnerActor"


def descendants(root: int) -> dict[int, str]:
    """Process ids below ``root`` with their titles (Linux)."""
    parents, named = {}, titles()
    for process in named:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            parents[process] = int(fields[1])
    found: dict[int, str] = {}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        below = {p: named[p] for p, of in parents.items() if of == parent}
        found |= below
        waiting += below
    return found


def titles() -> dict[int, str]:
    """All processes with their titles; dead ones not yet waited for have none."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                line = (path / "cmdline").read_bytes()
                found[int(path.name)] = line.split(b"\0")[0].decode(errors="replace")
    return found


def wait_until(what: str, true: Callable[[], bool]) -> None:
    """Return when it is so.

    Raises:
        TimeoutError: it is not within minutes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(_POLL_S)


@dataclass
class Scene:
    """A run and its teacher as processes that can be killed.

    Attributes:
        directory: where the run (``run/``), its configuration and logs lie.
        model: the teacher's directory.
        config: of the run; the teacher's address is added.
    """

    directory: Path
    model: Path
    config: dict[str, Any]
    teacher: subprocess.Popen[str] | None = None
    driver: subprocess.Popen[str] | None = None
    _orphans: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        teacher = self.config["teacher"] | {"address": self.address}
        text = yaml.safe_dump(self.config | {"teacher": teacher})
        (self.directory / "config.yaml").write_text(text)
        self.run = self.directory / "run"
        self._log: IO[str] = open(self.directory / "log", "a")  # noqa: SIM115

    def start_teacher(self) -> None:
        """Serve at the one address of this scene; returns when it does."""
        self.teacher = self._start(
            ["imitkd", "teacher", "serve", str(self.model), "--deterministic"],
            ["--threads", "1", "--address", self.address],
            out=subprocess.PIPE,
        )
        assert self.teacher.stdout is not None
        for line in self.teacher.stdout:
            if json.loads(line)["event"] == "serving":
                return
        raise RuntimeError(f"the teacher did not start: {self.said()}")

    def start_run(self) -> None:
        """Begin the run, or go on with it."""
        again = ["--resume"] if (self.run / "config.yaml").exists() else []
        self.driver = self._start(
            ["student_trainer", "config.yaml", "--output", "run"], again, out=subprocess.DEVNULL
        )

    def steps_learnt(self) -> int:
        """Of the driver that runs now: batches behind the last beginning in the ledger."""
        try:
            lines = (self.run / "ledger.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record["kind"] == "death":
                    continue
                return int(record["batch"] + 1 if record["kind"] == "batch" else record["step"])
        return 0

    def wait_for_step(self, step: int) -> None:
        """Return when so many steps are learnt, or the run has ended."""
        wait_until(f"step {step}", lambda: self.steps_learnt() >= step or self.ended())

    def kill_teacher(self) -> None:
        """As a machine that goes away would."""
        assert self.teacher is not None and self.teacher.stdout is not None
        self.teacher.kill()
        self.teacher.wait()
        self.teacher.stdout.close()

    def kill_actor(self, title: str) -> bool:
        """Kill one actor; whether there was one."""
        assert self.driver is not None
        found = [p for p, name in descendants(self.driver.pid).items() if name.startswith(title)]
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)
        return bool(found)

    def kill_driver(self) -> None:
        """The driver alone; what it started notices later, or not at all."""
        assert self.driver is not None
        self._orphans |= descendants(self.driver.pid)
        self.driver.kill()
        self.driver.wait()

    def ended(self) -> bool:
        """Whether no driver runs."""
        return self.driver is None or self.driver.poll() is not None

    def finish(self) -> int:
        """The run's exit status."""
        assert self.driver is not None
        return self.driver.wait(_PATIENCE_S)

    def said(self) -> str:
        """What the processes said."""
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End what still runs."""
        for process in (self.driver, self.teacher):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)
            if process is not None and process.stdout is not None:
                process.stdout.close()
        for orphan, title in self._orphans.items():
            if titles().get(orphan) == title:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
        self._log.close()

    def _start(self, *arguments: list[str], out: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *itertools.chain(*arguments)],
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=self._log,
            text=True,
        )


@contextlib.contextmanager
def scene(directory: Path, model: Path, config: dict[str, Any]) -> Iterator[Scene]:
    """A scene whose processes end with the block."""
    found = Scene(directory, model, config)
    try:
        yield found
    finally:
        found.close()


def outcome(path: Path) -> tuple[list[float], bytes]:
    """Losses of all steps, and the weights of the last checkpoint."""
    records = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    newest = max((path / "checkpoints").iterdir())
    losses = [r["loss"] for r in records if r["kind"] == "step"]
    return losses, (newest / "tensors.safetensors").read_bytes()


def disturb(on: Scene, rounds: int, steps: int, draw: random.Random) -> dict[str, int]:
    """Kill something every now and then; how often each.

    Every kind of victim has its turn before one has a second.
    """
    deaths = dict.fromkeys(("driver", "learner", "teacher", "worker"), 0)
    turns: list[str] = []
    for number in range(rounds):
        on.wait_for_step(steps * (number + 1) // (rounds + 1) + draw.randint(-2, 2))
        if on.ended():  # by itself: a Ray that did not come up in time, say
            on.start_run()
        turns = turns or draw.sample(sorted(deaths), len(deaths))
        victim = turns.pop()
        if victim == "teacher":
            on.kill_teacher()
            time.sleep(draw.uniform(0.0, 2.0))
            on.start_teacher()
        elif victim == "worker":
            wait_until("a worker", lambda: on.kill_actor(WORKER) or on.ended())
        elif victim == "learner":
            wait_until("the learner", lambda: on.kill_actor(LEARNER) or on.ended())
            assert on.finish() == 2, on.said()
            on.start_run()
        else:
            on.kill_driver()
            on.start_run()
        deaths[victim] += 1
    return deaths


def end(on: Scene) -> None:
    """Go on with the run until it is done; the learner may have been killed in its last steps.

    Raises:
        RuntimeError: it does not end well.
    """
    for _ in range(_RESTARTS):
        if on.finish() == 0:
            return
        on.start_run()
    raise RuntimeError(f"the run does not end: {on.said()}")


def measure(quick: bool) -> Result:
    """Disturb a run of the shipped teacher's corpus, then compare with an undisturbed one."""
    from imitkd.corpora import prepare
    from imitkd.demo import CONFIG, CORPUS, TEACHER
    from imitkd.shipped import shipped
    from student_trainer.config import load_config
    from student_trainer.ledger_check import check_ledger
    from student_trainer.run_directory import RunDirectory
    from student_trainer.training import train

    steps, rounds = (40, 4) if quick else (400, 40)
    corpus, model = (Path("data") / CORPUS).resolve(), shipped(TEACHER).resolve()
    prepare(CORPUS, corpus)
    config = yaml.safe_load(shipped(CONFIG).read_text())
    config["corpus"]["path"] = str(corpus)
    config["vocabulary"]["from"] = config["initialise"]["from"] = str(model)
    config |= {"deterministic": True, "checkpoint_every": 5}
    config["optimiser"] |= {"steps": steps}
    config["validation"] = {"every": steps, "sentences": 64}
    config["batch"] = {"sentences": 8, "shards": 2}
    with tempfile.TemporaryDirectory() as scratch, scene(Path(scratch), model, config) as on:
        on.start_teacher()
        begin = time.perf_counter()
        on.start_run()
        deaths = disturb(on, rounds, steps, random.Random(1))
        end(on)
        seconds = time.perf_counter() - begin
        account = check_ledger(RunDirectory(on.run))
        calm = Path(scratch) / "calm"
        train(load_config(Path(scratch) / "config.yaml", ["runtime=inline"]), calm)
        same = outcome(calm) == outcome(on.run)
        validations = [json.loads((p / "summary.json").read_text()) for p in (calm, on.run)]
    difference = abs(validations[0]["validation_loss"] - validations[1]["validation_loss"])
    return Result(
        {
            "ledger_holds": Figure(float(account.holds), "yes = 1", "1"),
            "same_as_undisturbed": Figure(float(same), "yes = 1", "1"),
            "validation_loss_difference": Figure(difference, "nats", "0"),
            "deaths": Figure(sum(deaths.values()), "processes"),
            "lost_share": Figure(account.rolled_back / steps, "share of the steps"),
            "seconds": Figure(seconds, "s"),
        },
        {"deaths": deaths, "steps": steps, "ledger": account.verdict()},
    )


if __name__ == "__main__":
    run("chaos", measure)
