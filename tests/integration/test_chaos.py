"""Teacher, worker and driver are killed -9 in one run; it ends as if nothing had happened."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import WORKER, Scene, outcome, scene
from imitkd.cli.main import main
from student_trainer.config import load_config
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.status import read_status
from student_trainer.training import train

STEPS = 120


@pytest.fixture
def config(plain_config: dict[str, Any]) -> dict[str, Any]:
    plain = plain_config | {
        "method": "imitkd-full",
        "runtime": "ray",
        "workers": 2,
        "checkpoint_every": 7,
        "teacher": {"attempt_timeout_s": 5.0, "timeout_s": 240.0},
        "rollout": plain_config["rollout"] | {"pool": 4, "lag": 4},
        "validation": {"every": 40, "sentences": 8},
    }
    plain["optimiser"] = plain["optimiser"] | {"steps": STEPS, "average": 0.9}
    return plain


@pytest.mark.timeout(600)  # Ray starts twice, the teacher too
def test_deaths_change_nothing(
    config: dict[str, Any],
    tiny_teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with scene(tmp_path, tiny_teacher, config) as on:
        on.start_teacher()
        on.start_run()
        on.wait_for_step(10)
        disturb(on)
        on.wait_for_step(50)
        assert read_status(RunDirectory(on.run)).state == "alive"
        on.kill_driver()
        left = read_status(RunDirectory(on.run))
        assert left.state == "stale" and 50 <= left.step < STEPS, on.said()
        on.start_run()
        assert on.finish() == 0, on.said()
        undisturbed = tmp_path / "undisturbed"
        train(load_config(tmp_path / "config.yaml", ["runtime=inline"]), undisturbed)
    # Not within noise: the same, bit by bit.
    assert outcome(on.run) == outcome(undisturbed)
    found, expected = (
        json.loads((path / "summary.json").read_text()) for path in (on.run, undisturbed)
    )
    assert found["validation_loss"] == expected["validation_loss"]
    account = check_ledger(RunDirectory(on.run))
    assert account.holds, account.verdict()
    assert (account.batches, account.resumes) == (STEPS, 1)
    assert account.repeated >= 1, "the dead worker held no shard"
    assert not account.quarantined
    with pytest.raises(SystemExit) as ended:
        main(["ledger", str(on.run)])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("the ledger holds: ")


def disturb(on: Scene) -> None:
    """The teacher dies; a worker dies while its shards wait for it; the teacher comes back."""
    on.kill_teacher()
    stalled = on.steps_learnt()
    time.sleep(0.3)
    assert on.kill_actor(WORKER)
    on.start_teacher()
    assert on.steps_learnt() < STEPS > stalled
