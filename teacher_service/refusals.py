"""Everything a request can be refused with on the server side; ``faults`` maps each to a status.

Messages name the value, the bound and the remedy: they go to the caller as they are.
"""

from __future__ import annotations


class Refusal(Exception):
    """Base: the request was not, or could not be, answered."""


class InvalidRequest(Refusal):
    """The request breaks a rule of the contract.

    Attributes:
        field: path of the field at fault, as in ``sequences[3].target_ids``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class TooLarge(InvalidRequest):
    """Larger than could ever be taken."""

    def __init__(self, message: str) -> None:
        super().__init__("", message)


class Mismatch(Refusal):
    """Expected fingerprint or revision differs."""


class QueueFull(Refusal):
    """No room now.

    Attributes:
        pushback_s: when to come back; set by whoever knows the pace.
    """

    pushback_s: float = 0.1


class NotServing(Refusal):
    """Loading or draining."""


class Expired(Refusal):
    """The deadline passed before the answer was ready."""


class NotOffered(Refusal):
    """Part of the contract that is not built or not enabled here."""


class NoCredential(Refusal):
    """The call carries no bearer token."""


class BadCredential(Refusal):
    """The call carries a wrong bearer token."""


class ModelFailed(Refusal):
    """The model raised; the log has the detail under ``incident``.

    The caller gets the id and, where it is known to be fit for callers, the ``reason``.
    """

    def __init__(self, incident: str, reason: str = "") -> None:
        told = f"the model failed: {reason}" if reason else "the model failed"
        super().__init__(f"{told}; the server's log has the detail under {incident}")
        self.incident = incident


class NonFiniteOutput(Exception):
    """The model's output holds NaN or infinity where there must be none; callers are told."""
