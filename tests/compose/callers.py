"""Who asks the stack: the project's own command, a gRPC client not written here, and `ray job`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.compose.stack import ROOT, Stack


def imitkd(*arguments: str) -> str:
    """A command on this machine, outside of all containers."""
    done = subprocess.run(
        [sys.executable, "-m", "imitkd", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def score(stack: Stack, token: str | None) -> str:
    """Ask the teacher over TLS on the published port: the reply, or what was said instead."""
    buf = Path(sys.executable).with_name("buf")
    request = {
        "sequences": [{"sourceIds": [17, 5, 1], "targetIds": [40, 8, 1]}],
        "payload": {"kind": "PAYLOAD_KIND_TOP_K", "k": 4},
    }
    bearer = [] if token is None else ["--header", f"authorization: Bearer {token}"]
    done = subprocess.run(
        [
            str(buf) if buf.exists() else shutil.which("buf") or "buf",
            "curl", "--protocol", "grpc", "--schema", "protos",
            "--cacert", str(stack.secrets / "authority" / "ca.pem"), *bearer,
            "--data", json.dumps(request),
            f"https://localhost:{stack.port}/teacher.v1.TeacherService/Score",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def ray_job(
    container: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`ray job` in a container of the cluster, with its token unless ``environment`` says else."""
    given = [x for item in environment.items() for x in ("-e", "=".join(item))]
    return subprocess.run(
        ["docker", "exec", *given, container, "ray", "job", *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
