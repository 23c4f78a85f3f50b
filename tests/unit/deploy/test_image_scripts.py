"""The scripts of deploy/docker that need no container: what they make, refuse and leave alone."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DOCKER = Path(__file__).parents[3] / "deploy" / "docker"
FILES = ("authority/ca.pem", "teacher/tls.pem", "teacher/tls-key.pem")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def check_torch(wanted: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "check_torch.py"), wanted]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_build_ends_where_torch_is_not_the_wanted_one():
    cuda = torch.version.cuda
    installed = "cpu" if cuda is None else "cu" + cuda.replace(".", "")
    assert check_torch(installed).returncode == 0
    for other in {"cpu", "cu118"} - {installed}:
        done = check_torch(other)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert f"built for {installed}, wanted is {other}" in line
        assert f"--build-arg TORCH_BUILD={installed}" in line and "TORCH_INDEX_URL" in line


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name in ("authority", "teacher"):
        (tmp_path / name).mkdir()
    return tmp_path


def certificates(secrets: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DOCKER / "certificates.sh"), str(secrets)]
    return subprocess.run(command, capture_output=True, text=True)


def texts(secrets: Path) -> dict[str, str]:
    return {name: (secrets / name).read_text() for name in FILES if (secrets / name).exists()}


@needs_openssl
def test_certificates_are_made_once_and_belong_together(secrets):
    assert certificates(secrets).returncode == 0
    made = texts(secrets)
    assert set(made) == set(FILES)
    ssl.create_default_context(cafile=str(secrets / FILES[0]))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(secrets / FILES[1], secrets / FILES[2])
    verify = ["openssl", "verify", "-verify_hostname", "teacher", "-CAfile", FILES[0], FILES[1]]
    assert subprocess.run(verify, cwd=secrets, capture_output=True).returncode == 0
    assert all((secrets / name).stat().st_mode & 0o077 == 0 for name in FILES)
    assert certificates(secrets).returncode == 0 and texts(secrets) == made


@pytest.mark.parametrize("given", [FILES[:1], FILES[1:], FILES[2:], FILES[:2]])
def test_a_part_of_ones_own_certificates_is_refused_and_stays(secrets, given):
    for name in given:
        (secrets / name).write_text("mine")
    done = certificates(secrets)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert all(name in line for name in FILES) and "put all three there" in line
    assert texts(secrets) == dict.fromkeys(given, "mine")


@needs_openssl
@pytest.mark.parametrize(
    ("authority", "signer", "renewed"),
    [
        ("imitkd compose", "imitkd compose", True),
        ("imitkd compose", "mine", False),
        ("mine", "mine", False),
    ],
)
def test_in_their_last_week_ours_are_renewed_and_ones_own_are_not(
    secrets, authority, signer, renewed
):
    for name, subject in zip(FILES[:2], (authority, signer), strict=True):
        made = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "3", "-subj", f"/CN={subject}",
            "-keyout", FILES[2], "-out", name,
        ]  # fmt: skip
        subprocess.run(made, cwd=secrets, capture_output=True, check=True)
    before = texts(secrets)
    assert certificates(secrets).returncode == 0
    after = texts(secrets)
    assert all((after[name] != before[name]) == renewed for name in FILES)
