"""The contract: lint, compatibility with the committed baseline, generated code up to date."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protos import generate

PROTOS = Path(generate.ROOT)
BASELINE = PROTOS / "baseline.binpb"


@pytest.fixture(scope="module")
def buf() -> str:
    beside = Path(sys.executable).with_name("buf")
    found = str(beside) if beside.is_file() else shutil.which("buf")
    if found is None:
        pytest.skip("buf is not installed; the package buf-bin has it")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_committed_code_equals_freshly_generated_code():
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    assert generate.stale() == []


def test_lint(buf):
    done = run(buf, "lint", str(PROTOS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_breaks_the_committed_baseline(buf):
    done = run(buf, "breaking", str(PROTOS), "--against", str(BASELINE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_breaking_change_would_be_seen(buf, tmp_path):
    shutil.copytree(PROTOS, tmp_path / "protos")
    contract = tmp_path / "protos" / "teacher" / "v1" / "teacher.proto"
    text = contract.read_text()
    changed = text.replace("repeated uint32 target_ids = 2;", "repeated uint32 target_ids = 4;")
    assert changed != text
    contract.write_text(changed)
    done = run(buf, "breaking", str(tmp_path / "protos"), "--against", str(BASELINE))
    assert done.returncode != 0
    assert "target_ids" in done.stdout
