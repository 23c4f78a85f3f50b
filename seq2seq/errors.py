"""The one exception for faults a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A fault in files, flags, configuration or models: one line with the value and the remedy.

    Command lines print the message alone and exit non-zero; it is picklable, so it survives the
    way from a worker process to the terminal.
    """
