"""Certificates on both sides, tokens, and that neither ever shows."""

from __future__ import annotations

import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seq2seq.errors import UserError
from teacher_service import codec, errors
from teacher_service.channel import Credentials
from teacher_service.client import TeacherClient
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

trustme = pytest.importorskip("trustme")


@dataclass
class Files:
    """PEM files of an authority, of a certificate for localhost, and of one for a caller."""

    authority: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path) -> Files:
        directory.mkdir()
        paths = cls(*(directory / name for name in ("ca", "cert", "key", "ccert", "ckey")))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(paths.authority)
        for names, certificate, key in (
            (("localhost", "127.0.0.1"), paths.certificate, paths.key),
            (("somebody@example.org",), paths.client_certificate, paths.client_key),
        ):
            issued = authority.issue_cert(*names)
            issued.private_key_pem.write_to_path(key)
            issued.cert_chain_pems[0].write_to_path(certificate)
        return paths


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("pki") / "theirs")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


@pytest.fixture(scope="module")
def server(model_dir: Path, ours: Files) -> Iterator[ServerThread]:
    """TLS, and callers must show a certificate."""
    config = tiny_config(
        model_dir,
        tls_certificate=ours.certificate,
        tls_key=ours.key,
        tls_client_ca=ours.authority,
        metrics_address="127.0.0.1:0",
    )
    with ServerThread(config) as server:
        with client_of(server, ours.authority, ours) as client:
            client.wait_ready(30)
        yield server


def client_of(
    server: ServerThread, roots: Path, shown: Files | None, timeout_s: float = 0.5
) -> TeacherClient:
    pair = (None, None) if shown is None else (shown.client_certificate, shown.client_key)
    read = Credentials.read(None, roots, *pair)
    return TeacherClient(
        server.address,
        timeout_s=timeout_s,
        root_certificates=read.root_certificates,
        client_certificate=read.client_certificate,
        client_key=read.client_key,
    )


def test_a_caller_of_our_authority_is_let_in(server, ours):
    with client_of(server, ours.authority, ours, 20) as client:
        assert client.score([[5, 1]], [[6]], codec.ArgmaxSpec()).lengths_B.tolist() == [1]


def test_a_caller_without_a_certificate_is_refused(server, ours):
    with (
        client_of(server, ours.authority, None) as client,
        pytest.raises(errors.TeacherUnavailable),
    ):
        client.model_info()


def test_a_caller_of_another_authority_is_refused(server, ours, theirs):
    with (
        client_of(server, ours.authority, theirs) as client,
        pytest.raises(errors.TeacherUnavailable),
    ):
        client.model_info()


def test_a_server_of_another_authority_is_refused(server, ours, theirs):
    with (
        client_of(server, theirs.authority, ours) as client,
        pytest.raises(errors.TeacherUnavailable),
    ):
        client.model_info()


def test_a_caller_in_clear_is_refused(server):
    with (
        TeacherClient(server.address, timeout_s=0.5) as client,
        pytest.raises(errors.TeacherUnavailable),
    ):
        client.model_info()


def test_metrics_are_guarded_like_the_teacher(server, ours):
    url = f"https://{server.events[0]['metrics_address']}/metrics"
    context = ssl.create_default_context(cafile=ours.authority)
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        urllib.request.urlopen(url, context=context, timeout=5).read()
    context.load_cert_chain(ours.client_certificate, ours.client_key)
    with urllib.request.urlopen(url, context=context, timeout=5) as reply:
        assert b"teacher_phase" in reply.read()


@pytest.mark.parametrize("case", ["another key", "no PEM", "no authority"])
def test_files_that_do_not_fit_are_one_clear_line(model_dir, ours, theirs, tmp_path, case):
    (tmp_path / "text").write_text("no certificate")
    files = {
        "another key": {"tls_certificate": ours.certificate, "tls_key": theirs.key},
        "no PEM": {"tls_certificate": tmp_path / "text", "tls_key": ours.key},
        "no authority": {
            "tls_certificate": ours.certificate,
            "tls_key": ours.key,
            "tls_client_ca": tmp_path / "text",
        },
    }[case]
    with (
        pytest.raises(UserError, match="do not fit each other") as caught,
        ServerThread(tiny_config(model_dir, **files)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_neither_side_logs_a_secret(model_dir, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text("open-sesame")
    config = tiny_config(model_dir, token_file=tmp_path / "token")
    with ServerThread(config) as server:
        with TeacherClient(server.address, token="open-sesame") as client:
            client.wait_ready(30)
        with (
            TeacherClient(server.address, token="wrong-sesame") as client,
            pytest.raises(errors.TeacherDenied) as caught,
        ):
            client.model_info()
    assert "sesame" not in caplog.text + str(caught.value) + str(server.events)
