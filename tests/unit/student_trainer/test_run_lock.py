"""One driver writes a run; who was cut off and comes back is refused."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seq2seq.errors import UserError
from student_trainer.run_directory import Checkpoint, RunDirectory
from student_trainer.run_lock import HOLDER_FILE, STALE_S, Fence, held, is_held, read_holder

HOLD = (
    "import sys, time; from pathlib import Path; from student_trainer.run_lock import held\n"
    "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def elsewhere(run: Path, token: int, age_s: float) -> None:
    """A holder on another machine that said so ``age_s`` ago."""
    file = run / HOLDER_FILE
    file.write_text(json.dumps({"token": token, "pid": 7, "host": "another.machine"}))
    then = time.time() - age_s
    os.utime(file, (then, then))


def test_tokens_grow_with_every_holder(tmp_path: Path) -> None:
    assert read_holder(tmp_path) is None and not is_held(tmp_path)
    for token in (1, 2, 3):
        with held(tmp_path) as fence:
            assert fence.token == token and is_held(tmp_path)
        assert not is_held(tmp_path)


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        with pytest.raises(UserError, match=rf"is being run by process {os.getpid()} on"):
            held(tmp_path).__enter__()
        first.check()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"process {process.pid} on .*; end that one first"):
            held(tmp_path).__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with held(tmp_path) as fence:
        assert fence.token == 2


def test_of_another_machine_its_last_word_counts(tmp_path: Path) -> None:
    elsewhere(tmp_path, 4, age_s=STALE_S / 2)
    assert is_held(tmp_path)
    with pytest.raises(UserError, match=r"process 7 on another.machine, which said so 15 s ago"):
        held(tmp_path).__enter__()
    elsewhere(tmp_path, 4, age_s=2 * STALE_S)
    assert not is_held(tmp_path)
    with held(tmp_path) as fence:
        assert fence.token == 5


def test_whoever_was_cut_off_writes_no_more(tmp_path: Path) -> None:
    with held(tmp_path) as fence:
        travelled: Fence = pickle.loads(pickle.dumps(fence))  # to the learner's process
        run = RunDirectory(tmp_path, travelled)
        run.append_metrics({"kind": "step", "step": 1})
        run.save_checkpoint(Checkpoint(1, {}, {}))
        elsewhere(tmp_path, 2, age_s=0)
        for write in (
            lambda: run.append_metrics({"kind": "step", "step": 2}),
            lambda: run.save_checkpoint(Checkpoint(2, {}, {})),
            lambda: run.write_summary({}),
        ):
            with pytest.raises(UserError, match=r"taken over by process 7 on another.machine"):
                write()
        assert run.checkpointed() == 1 and not run.summary_file.exists()
        assert [r["step"] for r in run.metrics.read()] == [1]


def test_the_holder_says_that_it_lives(tmp_path: Path) -> None:
    with held(tmp_path, beat_s=0.01):
        os.utime(tmp_path / HOLDER_FILE, (0, 0))
        deadline = time.monotonic() + 10
        while os.stat(tmp_path / HOLDER_FILE).st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / HOLDER_FILE).write_text("{")
    with pytest.raises(UserError, match=r"holder.json cannot be read .*remove it if nothing runs"):
        held(tmp_path).__enter__()
