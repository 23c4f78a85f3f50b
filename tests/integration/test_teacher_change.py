"""A teacher's replicas change under a run: another joins by its name in a file, the first one gets
SIGTERM, and no shard of the run is lost or made twice.

Replicas are processes of their own, workers and learner actors of Ray.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from student_trainer.config import make_config
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.training import train
from tests.run_outcome import losses_of
from tests.watching import scraper, wait_until

STEPS = 60
pytestmark = pytest.mark.usefixtures("ray_cluster")


class Replica:
    """``python -m teacher_service``, and what it shows of itself."""

    def __init__(self, model: Path, log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "teacher_service", str(model), "--score-cache-mib=0"),
                    *("--address", "127.0.0.1:0", "--metrics-address", "0", "--threads", "1"),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.events: list[dict[str, Any]] = []

    def ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "serving":
                listening = self.events[0]
                self.address = listening["address"]
                self._read = scraper(listening["metrics_address"])
                return
        raise AssertionError(self._log.read_text())

    def sequences(self, end: str = "computed") -> int:
        """So many ended like this until now."""
        return int(self._read("sequences_total", lane="score", end=end) or 0)

    def stop(self) -> None:
        """SIGTERM; it ends well, and gave up no call."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        assert [json.loads(x)["event"] for x in said.splitlines()] == ["draining", "stopped"]
        assert "cut off" not in self._log.read_text()


@pytest.fixture
def pair(tiny_teacher: Path, tmp_path: Path) -> Iterator[list[Replica]]:
    replicas = [Replica(tiny_teacher, tmp_path / f"{n}.log") for n in range(2)]
    try:
        for replica in replicas:
            replica.ready()
        yield replicas
    finally:
        for replica in replicas:
            replica.process.kill()
            replica.process.communicate()


def test_a_run_goes_from_one_replica_to_another(
    plain_config: dict[str, Any], pair: list[Replica], tmp_path: Path
) -> None:
    first, second = pair
    file, run = tmp_path / "teachers", RunDirectory(tmp_path / "run")
    file.write_text(f"{first.address}\n")
    plain = plain_config | {
        "method": "imitkd-full",
        "teacher": {"address": f"file:{file}", "refresh_s": 0.05, "timeout_s": 60.0},
        "batch": {"sentences": 9, "shards": 3},
    }
    plain["rollout"] = plain["rollout"] | {"pool": 4, "lag": 4}
    plain["optimiser"] = plain["optimiser"] | {"steps": STEPS}

    def steps() -> int:
        return len(losses_of(run.path)) if (run.path / "metrics.jsonl").exists() else 0

    def change() -> tuple[int, int, int]:
        """Steps done when both had answered, when the first was gone, and what it computed."""
        wait_until(lambda: steps() >= 5, 60)
        assert first.sequences() > 0 and second.sequences() == 0
        file.write_text(f"{first.address}\n{second.address}\n")
        wait_until(lambda: second.sequences() > 0)
        so_far = first.sequences()
        wait_until(lambda: first.sequences() > so_far)
        both, computed = steps(), first.sequences()
        first.stop()
        return both, steps(), computed

    with ThreadPoolExecutor(1) as aside:
        changed = aside.submit(change)
        result = train(make_config(plain | {"runtime": "ray", "workers": 2}), run.path)
        both, gone, of_first = changed.result()
    assert result.steps == STEPS and 5 <= both <= gone < STEPS - 8
    account = check_ledger(run)
    assert account.holds and (account.batches, account.repeated) == (STEPS, 0)
    records = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    scored = sum(r["scored_sentences"] for r in records if r["kind"] == "step")
    # Each was computed once, by one of them; the first may have had more after it was looked at.
    assert 0 <= scored - of_first - second.sequences() < scored / 2
    assert second.sequences("failed") == second.sequences("dropped") == 0
