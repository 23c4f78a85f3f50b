"""`docs/algorithm.md` and `docs/data.md` name files, functions, settings, methods that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from student_trainer.config import RunConfig
from student_trainer.methods import METHODS, Divergence, payloads_for

ROOT = Path(__file__).parents[3]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("algorithm", "data")}
PACKAGES = ("student_trainer", "seq2seq", "teacher_service")


def quoted(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, its head left out."""
    section = PAGES[page].split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert found is not None
    return [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in found[0].splitlines()[2:]]


def defined(tree: ast.AST, prefix: str = "") -> set[str]:
    """Names of the functions and classes of a module, methods behind their class."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= defined(node, f"{node.name}.")
    return found


@cache
def names(file: Path) -> set[str]:
    return defined(ast.parse(file.read_text()))


@cache
def members() -> set[str]:
    """``Class.method`` of all our modules."""
    return set().union(*(names(f) for p in PACKAGES for f in (ROOT / p).rglob("*.py")))


def is_there(name: str) -> bool:
    """Whether what is written as a file, a name in one, a method, or a setting, is one."""
    if found := re.fullmatch(r"([\w/]+\.py)(?::([\w.]+))?", name):
        file, inside = found.groups()
        paths = [ROOT / file, ROOT / "student_trainer" / file]
        path = next((p for p in paths if p.is_file()), None)
        return path is not None and (inside is None or inside in names(path))
    if re.match(r"[A-Z][a-z]\w+\.\w", name):
        return name in members()
    if (found := re.match(r"([a-z]+)\.(\w+)", name)) and found[1] in RunConfig.model_fields:
        return found[2] in keys(found[1])
    return True


def keys(section: str) -> set[str]:
    """The keys of a section of a configuration."""
    kinds = RunConfig.model_fields[section].annotation
    found: set[str] = set()
    for kind in (kinds, *get_args(kinds)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {field.alias or name for name, field in kind.model_fields.items()}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_there(page: str) -> None:
    told = [name for name in quoted(PAGES[page]) if not name.endswith((".json", ".jsonl"))]
    assert [name for name in told if not is_there(name)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("seq2seq/plan.py:BatchPlan.rows", True),
        ("seq2seq/data.py:BatchPlan.rows", False),
        ("mixing.py:beta", True),
        ("mixing.py:gamma", False),
        ("gone.py", False),
        ("RolloutWorker._scored", True),
        ("RolloutWorker._score", False),
        ("mixing.lambda=1", True),
        ("mixing.lambda_", False),
        ("initialise.from", True),
        ("loss.colour", False),
    ],
)
def test_how_names_are_looked_up(name: str, there: bool) -> None:
    assert is_there(name) is there


def test_every_method_in_its_order() -> None:
    told = [
        (name, row[2] != "no") for row in rows("algorithm", "Methods") for name in quoted(row[0])
    ]
    assert told == [(name, spec.mixed) for name, spec in METHODS.items()]


def test_every_divergence_with_the_payloads_that_feed_it() -> None:
    told = {quoted(row[0])[0]: quoted(row[2]) for row in rows("algorithm", "Divergences")[:-1]}
    every = ["argmax", "top-k", "candidates", "hidden", "full"]
    assert rows("algorithm", "Divergences")[-2][2] == "all"
    told["policy-gradient"] = every
    assert list(told) == list(get_args(Divergence))
    assert {name: list(payloads_for(name)) for name in told} == told
    assert quoted(rows("algorithm", "Divergences")[-1][2]) == list(payloads_for("argmax"))


def test_every_method_that_takes_sources_alone() -> None:
    told = {name for row in rows("data", "Sources alone") for name in quoted(row[0])}
    assert told == set(METHODS) - {"vanilla", "word-kd", "seqinter"}
