"""Whether a run may be given other steps: not where what it did was laid out for the old ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.resuming import restore
from student_trainer.run_directory import RunDirectory


class Interrupted:
    """An executor whose run was laid out for ten steps and stands at the fourth."""

    plan = "digest"

    def restore(self) -> tuple[int, dict[str, Any]]:
        return 4, {"steps": 10}


@pytest.mark.parametrize(
    ("method", "mixing", "allowed"),
    [
        ("gkd", {}, True),
        ("imitkd", {"lambda": 0.3}, True),
        ("imitkd", {"schedule": "constant", "value": 0.3}, True),
        ("imitkd", {"schedule": "linear"}, False),
        ("imitkd", {}, False),
        ("word-kd", {}, True),
    ],
)
def test_other_steps(
    plain_config: dict[str, Any], tmp_path: Path, method: str, mixing: Any, allowed: bool
) -> None:
    changes = {"method": method, "mixing": mixing, "teacher": {"address": "x:1"}}
    config = make_config(plain_config | changes | {"optimiser": {"steps": 20}})
    executor: Any = Interrupted()
    run = RunDirectory(tmp_path)
    if allowed:
        assert restore(config, executor, run, None).start == 4
        return
    with pytest.raises(UserError, match=r"laid out for 10 steps and mixing.schedule=\w+ would"):
        restore(config, executor, run, None)
