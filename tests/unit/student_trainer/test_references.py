"""Source-only text: who may train on it, and what is said to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seq2seq.corpus import Example
from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.references import needs_references, require_references, require_target_text

MIXED = [Example("a", ("b",)), Example("c"), Example("d")]
NEVER = {"schedule": "constant", "value": 0.0}


@pytest.mark.parametrize(
    ("method", "mixing", "needs"),
    [
        ("vanilla", NEVER, True),
        ("word-kd", NEVER, True),
        ("imitkd", NEVER, False),
        ("imitkd-full", NEVER, False),
        ("imitkd-full", NEVER | {"warmup": 0.1}, True),
        ("imitkd-full", {"schedule": "constant", "value": 0.01}, True),
        ("imitkd-full", {"schedule": "exponential"}, True),
        ("imitkd-full", {"schedule": "linear", "final": 0.0, "value": 0.0}, True),
        ("imitkd", {"lambda": 1.0}, False),
        ("gkd", {"lambda": 1.0}, False),
        ("gkd", {"lambda": 0.99}, True),
        ("gkd", {}, True),
        ("replay", NEVER, False),
        ("aggregation", NEVER, True),
    ],
)
def test_methods_that_keep_a_row_need_its_reference(
    plain_config: dict[str, Any], method: str, mixing: dict[str, Any], needs: bool
) -> None:
    plain = plain_config | {"method": method, "mixing": mixing}
    config = make_config(plain | {"teacher": {"address": "127.0.0.1:1"}})
    assert needs_references(config) is needs
    assert list(require_references(config, MIXED[:1])) == MIXED[:1]
    if not needs:
        assert list(require_references(config, MIXED)) == MIXED
        return
    with pytest.raises(UserError, match=rf"2 of the 3 .*method {method} needs; .*data distil"):
        list(require_references(config, MIXED))


@pytest.mark.parametrize(("confidence", "needs"), [(0.0, False), (0.01, True)])
def test_the_confidence_filter_gives_rows_their_reference(
    plain_config: dict[str, Any], confidence: float, needs: bool
) -> None:
    """Without one a row that the teacher doubts would learn to end at once."""
    changes = {"method": "aggregation", "mixing": NEVER, "pool": {"confidence": confidence}}
    config = make_config(plain_config | changes | {"teacher": {"address": "x:1"}})
    assert needs_references(config) is needs


def test_sources_alone_make_no_vocabulary() -> None:
    require_target_text(MIXED, Path("corpus"))
    with pytest.raises(UserError, match=r"corpus has sources alone.*served: true"):
        require_target_text(MIXED[1:], Path("corpus"))
