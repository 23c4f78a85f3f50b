"""Tokens, certificates and keys from files, for both sides; their content is never shown."""

from __future__ import annotations

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


def read_token(path: Path, what: str = "the token file") -> str:
    """The one line of a token file.

    Raises:
        TeacherSecretError: it cannot be read, or holds anything but one word of visible ASCII,
            which is all that a header can carry.
    """
    token = read_secret(path, what).strip()
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise TeacherSecretError(
            f"{what} {path} holds more than one word of ASCII; put the token alone into it"
        )
    return token.decode("ascii")
