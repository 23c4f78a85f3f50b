"""imitkd: the command line, and what spans the teacher service and the student trainer."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Translator", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: the command line starts without numpy and what translates.
    if name == "Translator":
        from imitkd.translator import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
