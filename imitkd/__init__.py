"""imitkd: the command line, and what spans the teacher service and the student trainer."""

from __future__ import annotations

__version__ = "0.1.0"
