"""`docs/teacher_service.md` says what the code does: every flag, metric and error, by name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import grpc

from teacher_service import errors, refusals
from teacher_service.batching import BatchLimits
from teacher_service.caches import ByteCache
from teacher_service.command import serve
from teacher_service.engine import Engine, Lane
from teacher_service.metrics import Metrics, reason_of
from teacher_service.reports import BatchReport, CallReport
from teacher_service.retrying import Fault, error_of
from teacher_service.work import Identity
from tests.unit.teacher_service.test_faults import TABLE, every

TEXT = (Path(__file__).parents[3] / "docs" / "teacher_service.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, its head left out."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows is not None
    return [re.split(r" *\| *", line)[1:-1] for line in rows[0].splitlines()[2:]]


def quoted(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_flag_with_its_default():
    told: dict[str, str] = {}
    for flags, default, *_ in table("Flags"):
        names = [name.split("/")[0].removeprefix("--") for name in quoted(flags)]
        defaults = default.replace("`", "").split(", ") if len(names) > 1 else [default.strip("`")]
        defaults += [""] * (len(names) - len(defaults))
        told |= dict(zip(names, defaults, strict=True))
    taken = {n: p.default for n, p in inspect.signature(serve).parameters.items()}
    del taken["model_dirs"]
    assert list(told) == list(dict.fromkeys(told))
    assert set(told) == {name.replace("_", "-") for name in taken}
    for name, default in taken.items():
        shown = told[name.replace("_", "-")].replace(",", "")
        if default is None or isinstance(default, bool):
            assert not re.fullmatch(r"[\d.]+", shown), name
        elif isinstance(default, str):
            assert shown == default, name
        else:
            assert float(shown) == default, name


def shown_metrics() -> dict[str, set[str]]:
    """Name -> labels of everything that a server's endpoint shows."""
    metrics = Metrics()
    metrics.phase("serving")
    metrics.call_ended(CallReport("Score", "top_k", "OK", 0.1, refusals.QueueFull("full")))
    metrics.batch_done(BatchReport("score", {"computed": 1}, [0.1], 0.1, 1, 5, 6))
    metrics.watch_engine(Engine([Lane("score", BatchLimits(10), lambda *_: [])]))
    metrics.watch_caches({"score": ByteCache(1)})
    metrics.model(Identity("m", "r", "f", 9, 0, 1, 2, (3,), 5, 5, 4, 7), "cpu", "fp32")
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        if family.name.startswith("teacher_"):
            labels = {key for sample in family.samples for key in sample.labels} - {"le"}
            found[family.name + ending] = labels
    return found


def test_every_metric_with_its_labels():
    told: dict[str, set[str]] = {}
    for names, labels, _ in table("Metrics"):
        told |= {name: {x for x in labels.split(", ") if x} for name in quoted(names)}
    del told["process_*"]
    assert told == shown_metrics()


def test_every_reason_of_a_rejection():
    (row,) = (row for row in table("Metrics") if row[0] == "`teacher_rejections_total`")
    kinds = every(refusals.Refusal) - {refusals.Refusal}
    reasons = {reason_of(error) for error in TABLE}
    assert len(reasons) == len(kinds)
    assert set(quoted(row[2])) == reasons | {reason_of(KeyError())}


def test_every_error_with_its_code_and_exception():
    codes: set[str] = set()
    exceptions: set[str] = set()
    for case, told, raised, _ in table("Errors"):
        kind: Any = getattr(errors, quoted(raised)[0])
        exceptions.add(kind.__name__)
        for code in re.findall(r"[A-Z]+(?:_[A-Z]+)*(?=[ ,]|$)", told.split(" with")[0]):
            pushback = 0.1 if "with `grpc-retry-pushback-ms`" in told else None
            codes.add(code)
            assert hasattr(grpc.StatusCode, code), case
            assert issubclass(kind, type(error_of("Score", Fault(code, "", pushback)))), case
    assert codes >= {code.name for code in TABLE.values()}
    # A store of scores is no service; its errors are told where it is described.
    public = every(errors.TeacherError) - {errors.TeacherError, errors.TeacherStoreError}
    # Ray derives classes of its own from those that pass through it.
    ours = {kind.__name__ for kind in public if kind.__module__ == errors.__name__}
    assert exceptions == ours
