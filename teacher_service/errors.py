"""What can go wrong for somebody who asks a teacher: one line each, with the remedy.

All survive pickling, so a Ray actor may raise them. No torch, no gRPC.
"""

from __future__ import annotations


class TeacherError(Exception):
    """Base of everything the client raises; the message is one line."""


class TeacherUnavailable(TeacherError):
    """Not reachable, loading, draining or overloaded until the overall deadline ran out."""


class TeacherTimeout(TeacherUnavailable):
    """No answer within the overall deadline."""


class TeacherMismatch(TeacherError):
    """The teacher's vocabulary or revision is not the expected one; never trained on."""


class TeacherRefused(TeacherError):
    """The request itself is at fault (malformed, out of range, too large, not offered)."""


class TeacherDenied(TeacherError):
    """No credential or a wrong one."""


class TeacherSecretError(TeacherError):
    """A token, certificate or key cannot be read, or one that another needs is missing."""


class TeacherStoreError(TeacherError):
    """A score store cannot be read or written, is damaged, or lacks what is asked for."""


class TeacherFailed(TeacherError):
    """The model failed or its output was not finite; the server's log has the detail."""


class TeacherProtocolError(TeacherError):
    """The reply breaks the contract: shapes, dtypes or lengths do not fit the request."""
