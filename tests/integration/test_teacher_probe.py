"""`imitkd teacher health`: what a container's health check sees of a server in its phases."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imitkd.cli.main import main
from teacher_service.channel import Credentials
from teacher_service.errors import TeacherUnavailable
from teacher_service.local_model import load_local_model
from teacher_service.probe import probe
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

NOBODY = Credentials()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


def status(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["teacher", "health", *arguments])
    return ended.value.code


def until(expected: str, ask: Callable[[], str]) -> None:
    """The phases follow each other in the server's own time; pytest's time-out bounds the wait."""
    while ask() != expected:
        pass


def test_loading_is_not_serving_and_serving_needs_no_token(model_dir, tmp_path, capsys):
    """A server that loads until it is told to go on."""
    go_on = threading.Event()
    (tmp_path / "token").write_text("secret")

    def load(config):
        go_on.wait()
        return load_local_model([model_dir], "cpu", "fp32", 1)

    config = tiny_config(model_dir, token_file=tmp_path / "token")
    with ServerThread(config, load) as server:
        assert status("--address", server.address) == 1
        assert capsys.readouterr().out == "NOT_SERVING\n"
        go_on.set()
        until("SERVING", lambda: probe(server.address, NOBODY, 5.0))
        assert status("--address", server.address) == 0
        assert capsys.readouterr().out == "SERVING\n"


def test_nobody_there_is_one_line_with_a_status(capsys):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert status("--address", address, "--timeout-s", "0.2") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"imitkd: {address} does not answer (") and error.count("\n") == 1


def test_over_tls_the_authority_counts(model_dir, tmp_path):
    trustme = pytest.importorskip("trustme")
    for name in ("ours", "theirs"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}-tls.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}-key.pem")
    files = {"tls_certificate": tmp_path / "ours-tls.pem", "tls_key": tmp_path / "ours-key.pem"}
    with ServerThread(tiny_config(model_dir, **files)) as server:
        ours = Credentials.read(root_certificates=tmp_path / "ours.pem")
        until("SERVING", lambda: probe(server.address, ours, 5.0))
        for others in (NOBODY, Credentials.read(root_certificates=tmp_path / "theirs.pem")):
            with pytest.raises(TeacherUnavailable, match="does not answer"):
                probe(server.address, others, 0.5)
