"""Tokens, certificates and keys from files, for both sides; their content is never shown."""

from __future__ import annotations

import ssl
from pathlib import Path

from teacher_service.errors import TeacherSecretError


def read_secret(path: Path, what: str) -> bytes:
    """A file's content.

    Args:
        what: what the file is to the reader of a message, for instance ``token file``.

    Raises:
        TeacherSecretError: it cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TeacherSecretError(
            f"cannot read {what} {path}: {error.strerror}; check the path"
        ) from error
    if not content.strip():
        raise TeacherSecretError(f"{what} {path} is empty")
    return content


def tls_fault(
    certificate: Path | None = None, key: Path | None = None, authority: Path | None = None
) -> str:
    """What OpenSSL has against these PEM files, which gRPC would not say; empty: nothing.

    Args:
        key: of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if certificate is not None:
            # Never ask at the terminal for the passphrase of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        if authority is not None:
            context.load_verify_locations(authority)
    except (ssl.SSLError, ValueError) as error:
        files = ", ".join(str(path) for path in (certificate, key, authority) if path is not None)
        return (
            f"the TLS files {files} are damaged, encrypted or do not fit each other "
            f"({getattr(error, 'reason', None) or error}); give PEM files, the key of that "
            "certificate and without a passphrase"
        )
    return ""


def read_token(path: Path, what: str = "the token file") -> str:
    """The one line of a token file.

    Raises:
        TeacherSecretError: it cannot be read, or holds anything but one word of visible ASCII,
            which is all that a header can carry.
    """
    token = read_secret(path, what).strip()
    if not fits_header(token):
        raise TeacherSecretError(
            f"{what} {path} holds more than one word of ASCII; put the token alone into it"
        )
    return token.decode("ascii")


def fits_header(token: bytes) -> bool:
    """Whether it is one word of visible ASCII."""
    return all(0x21 <= byte <= 0x7E for byte in token)
