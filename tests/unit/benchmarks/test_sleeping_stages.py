"""The benchmarks' sleeping stages fit the trainer as it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sleeping_stages import Stages, config_of, drive


def test_stages_without_sleep_run_to_the_end(tmp_path: Path) -> None:
    steps = 9
    config = config_of(Stages(parameters=8), steps, shards=2)
    pace = drive(config, tmp_path / "run", inline=True)
    assert len(pace.ends) == steps
