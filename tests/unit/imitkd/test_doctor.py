"""Examinations: order, what cannot run, exit codes, the two forms of the report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from imitkd.doctor.checks import CHECKS
from imitkd.doctor.examination import Check, Examination, examine
from imitkd.doctor.findings import (
    Finding,
    Severity,
    error,
    exit_code,
    of_exception,
    ok,
    skipped,
    warning,
)
from imitkd.doctor.report import print_table, summary, to_json
from seq2seq.errors import UserError
from student_trainer.config import make_config
from teacher_service.errors import TeacherMismatch


@pytest.fixture
def it(plain_config: dict[str, Any], tmp_path: Path) -> Examination:
    return Examination(make_config(plain_config), tmp_path / "run")


def says(*findings: Finding) -> Callable[[Examination], list[Finding]]:
    return lambda it: list(findings)


def needs(*names: str) -> Callable[[Examination], list[Finding]]:
    def run(it: Examination) -> list[Finding]:
        it.need(*names)
        return [ok("ran")]

    return run


def raises(fault: Exception) -> Callable[[Examination], list[Finding]]:
    def run(it: Examination) -> list[Finding]:
        raise fault

    return run


def told(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(f.check, str(f.severity), f.message) for f in found]


def test_a_check_that_needs_a_failed_one_says_so_and_the_others_go_on(it):
    checks = [
        Check("a", says(ok("fine"), error("broken", "mend it"))),
        Check("b", needs("a")),
        Check("c", needs("b")),
        Check("d", says(warning("hm", "look"))),
        Check("e", needs("d")),
    ]
    assert told(list(examine(it, checks))) == [
        ("a", "ok", "fine"),
        ("a", "error", "broken"),
        ("b", "skipped", "cannot run: 'a' failed"),
        ("c", "skipped", "cannot run: 'b' was skipped"),
        ("d", "warning", "hm"),
        ("e", "ok", "ran"),
    ]


def test_faults_become_findings_with_their_remedy(it):
    checks = [
        Check("user", raises(UserError("'x' is wrong (a; b); do y"))),
        Check("teacher", raises(TeacherMismatch("another\nrevision"))),
        Check("bug", raises(ZeroDivisionError("division by zero"))),
        Check("after", says(ok("still here"))),
    ]
    found = list(examine(it, checks))
    assert [(f.message, f.remedy) for f in found] == [
        ("'x' is wrong (a; b)", "do y"),
        ("another revision", ""),
        ("the check itself failed: ZeroDivisionError: division by zero", "report it"),
        ("still here", ""),
    ]
    assert [str(f.severity) for f in found] == ["error", "error", "error", "ok"]


def test_checks_are_left_out_by_name_alone(it):
    checks = [Check("a", says(error("x", "y"))), Check("b", needs("a"))]
    assert told(list(examine(it, checks, ["a"]))) == [
        ("a", "skipped", "left out"),
        ("b", "skipped", "cannot run: 'a' was skipped"),
    ]
    with pytest.raises(UserError, match="no check 'c'; the checks are a, b"):
        list(examine(it, checks, ["c"]))


def test_connections_are_closed_whatever_happens(it):
    closed: list[str] = []
    it.open.callback(closed.append, "closed")
    list(examine(it, [Check("a", raises(ValueError("x")))]))
    assert closed == ["closed"]


def test_names_of_checks_are_distinct():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) > 15


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a"), skipped("b")], 0),
        ([warning("a", "b"), ok("c")], 1),
        ([error("a", "b"), warning("a", "b"), ok("c")], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst(findings, code):
    assert exit_code(findings) == code
    assert json.loads(to_json(findings, "c.yaml"))["exit_code"] == code


def test_an_exception_without_a_remedy_is_all_message():
    assert of_exception(UserError("just wrong")) == Finding(Severity.error, "just wrong")


def test_the_table_shows_every_finding_with_its_remedy():
    findings = [
        Finding(Severity.error, "it is [red] broken", "mend [it]", check="first"),
        Finding(Severity.ok, "fine", check="first"),
        Finding(Severity.skipped, "not now", check="second"),
    ]
    out = io.StringIO()
    print_table(findings, "c.yaml", Console(file=out, width=60))
    text = out.getvalue()
    assert "it is [red] broken" in text and "-> mend [it]" in text and "not now" in text
    assert text.count("first") == 1
    assert "1 error, 1 skipped, 1 ok" in text
    assert summary([error("a", "b"), error("a", "b")]) == "2 errors"


def test_machines_get_every_field():
    finding = Finding(Severity.warning, "m", "r", {"n": 1, "x": [0.5]}, "data")
    assert json.loads(to_json([finding], "c.yaml")) == {
        "config": "c.yaml",
        "exit_code": 1,
        "findings": [
            {
                "check": "data",
                "severity": "warning",
                "message": "m",
                "remedy": "r",
                "facts": {"n": 1, "x": [0.5]},
            }
        ],
    }
