"""Locks on open files and directories, which the kernel lets go of whatever ends the process."""

from __future__ import annotations

import fcntl


def taken(descriptor: int, *, shared: bool = False) -> bool:
    """Lock what is open, until it is closed; False where another process has it.

    Args:
        shared: other shared locks are suffered beside this one.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
