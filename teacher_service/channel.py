"""What a client shows a teacher, and the gRPC channel that carries it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from teacher_service import aio_runtime
from teacher_service.addresses import Endpoint
from teacher_service.errors import TeacherSecretError
from teacher_service.secret_files import fits_header, read_secret, read_token, tls_fault

# A reply may be as large as the server's largest; the server bounds it, not gRPC's 4 MiB default.
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True)
class Credentials:
    """Who the client is, and whom it trusts; no secret shows in its ``repr``.

    Attributes:
        token: bearer token.
        root_certificates: PEM of the authority that signed the service's certificate; makes the
            channel TLS.
        client_certificate, client_key: PEM, for a service that asks its callers for a certificate.

    Raises:
        TeacherSecretError: a part without the part that it needs, or a token that is not one word
            of visible ASCII, which is all that a header can carry.
    """

    token: str | None = field(default=None, repr=False)
    root_certificates: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not fits_header((self.token or "").encode()):
            raise TeacherSecretError("the token holds more than one word of ASCII")
        if (self.client_certificate is None) != (self.client_key is None):
            raise TeacherSecretError(
                "the client's certificate and key belong together; give both or none"
            )
        if self.client_certificate is not None and self.root_certificates is None:
            raise TeacherSecretError(
                "a client certificate needs the root certificates of the service as well"
            )

    @classmethod
    def read(
        cls,
        token_file: Path | None = None,
        root_certificates: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
        where: str = "",
    ) -> Credentials:
        """From files.

        Args:
            where: stands before a file's name in messages, for instance ``teacher.``.

        Raises:
            TeacherSecretError: a file cannot be read or used, or another is missing.
        """

        def content(name: str, path: Path | None) -> bytes | None:
            return None if path is None else read_secret(path, f"{where}{name}")

        read = cls(
            None if token_file is None else read_token(token_file, f"{where}token_file"),
            content("root_certificates", root_certificates),
            content("client_certificate", client_certificate),
            content("client_key", client_key),
        )
        if fault := tls_fault(client_certificate, client_key, root_certificates):
            raise TeacherSecretError(fault)
        return read

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Rides in every call."""
        return () if not self.token else (("authorization", f"Bearer {self.token}"),)


def channel_arguments(
    credentials: Credentials, host: str = ""
) -> tuple[grpc.ChannelCredentials | None, tuple[tuple[str, Any], ...]]:
    """Credentials (None: plain text) and options of a channel.

    Args:
        host: the name whose certificate is to be shown; empty: that of the target.
    """
    if credentials.root_certificates is None:
        return None, _OPTIONS
    secured = grpc.ssl_channel_credentials(
        credentials.root_certificates, credentials.client_key, credentials.client_certificate
    )
    named = (("grpc.ssl_target_name_override", host),) if host else ()
    return secured, _OPTIONS + named


def open_aio_channel(endpoint: Endpoint, credentials: Credentials) -> grpc.aio.Channel:
    """An asyncio channel of the running loop; connects on first use."""
    aio_runtime.keep()
    secured, options = channel_arguments(credentials, endpoint.host)
    if secured is None:
        return grpc.aio.insecure_channel(endpoint.target, options=options)
    return grpc.aio.secure_channel(endpoint.target, secured, options=options)
