"""Taking an address for oneself alone, and telling a parent process which it is."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from pathlib import Path

import grpc

from seq2seq.errors import UserError
from teacher_service.bind_address import joined
from teacher_service.config import ServerConfig
from teacher_service.secret_files import read_secret, tls_fault


def check(config: ServerConfig) -> None:
    """Whatever :func:`bind` would fail with, said before anything of gRPC's is made.

    Raises:
        UserError, TeacherSecretError: see there.
    """
    _credentials(config)
    _probe(config)


def bind(server: grpc.aio.Server, config: ServerConfig) -> str:
    """Bind the configured address, with TLS where configured; :func:`check` comes first.

    Returns:
        The address a client on this machine may dial, with the port that was taken.

    Raises:
        UserError: the address is taken or not ours; certificate and key do not fit.
        TeacherSecretError: a certificate or key cannot be read.
    """
    credentials = _credentials(config)
    try:
        if credentials is None:
            port = server.add_insecure_port(config.address)
        else:
            port = server.add_secure_port(config.address, credentials)
    except RuntimeError as error:
        raise _cannot_listen(config.address, str(error)) from error
    pair = config.host_and_port
    if pair is None:
        return config.address
    if port == 0:
        raise _cannot_listen(config.address, "gRPC could not bind it")
    return joined(pair[0], port)


def write_address(path: Path, address: str) -> None:
    """Put the address into a file in one step, so that a reader sees all of it or none.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(address + "\n")
        os.replace(name, path)
    except OSError as error:
        raise UserError(f"cannot write the address file {path}: {error.strerror}") from error


def forget_address(config: ServerConfig) -> None:
    """Remove the address file: nobody answers there any more."""
    if config.address_file is not None:
        with contextlib.suppress(OSError):
            config.address_file.unlink()


def _probe(config: ServerConfig) -> None:
    """Try the address with a plain socket: gRPC's own message about a taken port helps nobody."""
    pair = config.host_and_port
    if pair is None:
        _probe_unix(config.address)
        return
    host, port = pair
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            # Only listening shows a listener that was bound with the same reuse option.
            probe.listen(1)
    except OSError as error:
        raise _cannot_listen(config.address, error.strerror or str(error)) from error


def _probe_unix(address: str) -> None:
    """gRPC takes a socket file over from whoever listens on it, and says little otherwise: ask."""
    path = Path(address.removeprefix("unix:").removeprefix("//"))
    if not path.parent.is_dir():
        raise _cannot_listen(address, f"{path.parent} is no directory")
    if path.exists() and not path.is_socket():
        raise _cannot_listen(address, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except OSError as error:
            if error.errno is None:  # longer than such an address can be
                raise _cannot_listen(address, str(error)) from error
            return
    raise _cannot_listen(address, "Address already in use")


def _cannot_listen(address: str, reason: str) -> UserError:
    return UserError(
        f"cannot listen on {address}: {reason}; stop whatever uses it or choose another --address "
        "(port 0 picks a free one)"
    )


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    certificate = read_secret(config.tls_certificate, "the TLS certificate")
    key = read_secret(config.tls_key, "the TLS key")
    ca = config.tls_client_ca
    authority = None if ca is None else read_secret(ca, "the TLS client CA")
    if fault := tls_fault(config.tls_certificate, config.tls_key, ca):
        raise UserError(fault)
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )
