"""A teacher that is served for as long as a block lasts ends with the process that serves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from teacher_service.client import TeacherClient
from teacher_service.errors import TeacherUnavailable
from tests.watching import wait_until

SERVES = """
import sys, time
from pathlib import Path
from imitkd.serving import serve_arguments, serving
with serving(serve_arguments(Path(sys.argv[1]), threads=1), Path(sys.argv[2])) as address:
    print(address, flush=True)
    time.sleep(600)
"""


def test_no_teacher_outlives_a_process_that_is_killed(tiny_teacher: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES, str(tiny_teacher), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, TeacherClient(process.stdout.readline().strip(), timeout_s=1.0) as client:
        assert client.model_info().name
        process.kill()

        def gone() -> bool:
            try:
                client.model_info()
            except TeacherUnavailable:
                return True
            return False

        wait_until(gone, 30.0)
