"""What is told of a run's progress, and where."""

from __future__ import annotations

import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.driver import Spent
from student_trainer.observers import MetricsObserver, ProgressObserver, PrometheusObserver
from student_trainer.resuming import Standing
from student_trainer.run_directory import RunDirectory
from student_trainer.types import LearntShard, StepReport, ValidationReport


def report(step: int) -> StepReport:
    counts = dict.fromkeys(("positions", "scored_sentences", "scored_positions"), 9)
    return StepReport(
        step=step,
        version=0,
        beta=0.5,
        loss=2.0 / step,
        gradient_norm=1.0,
        learning_rate=0.1,
        sentences=8,
        student_share=0.5,
        generate_s=0.1,
        score_s=0.2,
        learn_s=0.4,
        shards=(LearntShard(8, "00"),),
        **counts,
    )


@pytest.fixture
def config_of(plain_config: dict[str, Any]):
    return lambda **changes: RunConfig(**(plain_config | changes))


def test_a_verdict_on_the_steps_since_the_last_one_follows_each_validation(config_of, tmp_path):
    run = RunDirectory(tmp_path)
    observer = MetricsObserver(config_of(), run, 0)
    for step, wall_s in ((1, 1.0), (2, 2.0)):
        observer.on_step(report(step), wall_s)
        observer.on_validation(ValidationReport(step, 1.0, 2.0, 3.0, 4.0, best=True))
    observer.close()
    records = list(run.metrics.read())
    assert [r["kind"] for r in records] == ["step", "validation", "verdict"] * 2
    assert not any("shards" in r for r in records)
    verdicts = [r for r in records if r["kind"] == "verdict"]
    assert [(v["step"], v["stage"], v["utilisation"]) for v in verdicts] == [
        (1, "learn", 0.4),
        (2, "learn", 0.2),
    ]


def test_prometheus_gets_what_it_asks_for(config_of):
    pytest.importorskip("prometheus_client")
    observer = PrometheusObserver(config_of(metrics_address="127.0.0.1:0"))
    try:
        observer.on_step(report(4), 1.0)
        observer.on_validation(ValidationReport(4, 31.5, 50.0, 1.5, 4.0, best=True))
        with urllib.request.urlopen(f"http://127.0.0.1:{observer.port}/metrics", timeout=10) as got:
            lines = got.read().decode().splitlines()
    finally:
        observer.close()
    for line in (
        "trainer_step 4.0",
        "trainer_steps 8.0",
        'trainer_value{name="loss"} 0.5',
        'trainer_value{name="sentences_per_s"} 8.0',
        'trainer_validation{name="bleu"} 31.5',
        'trainer_busy_share{stage="learn"} 0.4',
    ):
        assert line in lines


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "nowhere", "127.0.0.1:x"])
def test_an_address_that_cannot_be_bound(config_of, address):
    pytest.importorskip("prometheus_client")
    with pytest.raises(UserError, match=rf"metrics_address {address} cannot be bound"):
        PrometheusObserver(config_of(metrics_address=address))


def test_the_bar_goes_on_where_the_run_stood():
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    observer = ProgressObserver(100, Standing(40, None, Spent(3600.0, 0.0)), console)
    observer.on_step(report(41), 0.5)
    observer.close()
    shown = text.getvalue()
    assert "41/100 steps" in shown and "1:00:0" in shown


def test_status_and_ledger_as_commands(config_of, tmp_path: Path, capsys):
    from imitkd.cli.main import main

    def command(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    for name in ("status", "ledger"):
        code, out, err = command(name, str(tmp_path / "none"))
        assert (code, out) == (2, "") and "none holds no run" in err
    run = RunDirectory(tmp_path)
    from student_trainer.config import dump_config

    run.write_config(dump_config(config_of()))
    observer = MetricsObserver(config_of(), run, 0)
    for step in (1, 2):
        observer.on_step(report(step), 0.5)
    observer.close()
    code, out, _ = command("status", str(tmp_path))
    assert code == 0
    assert out.splitlines() == [
        "stale: no process runs it; --resume goes on from the beginning, step 2 of 8 (25%)",
        "16 sentences/s",
        "last losses 2.000 1.000",
    ]
    code, out, _ = command("status", str(tmp_path), "--json")
    assert json.loads(out)["state"] == "stale" and json.loads(out)["eta_s"] is None
    run.ledger.append({"kind": "begin", "token": 1, "step": 3, "plan": "?"})
    code, out, _ = command("ledger", str(tmp_path))
    assert code == 1 and out.startswith("the ledger is broken: 2 faults; first: a process began")
