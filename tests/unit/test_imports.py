"""Who may import whom: read from the source of every module, and seen in fresh interpreters.

::

    seq2seq, protos                -> nothing of ours
    teacher_service, client side   -> protos          (all that codec and client reach; no torch)
    teacher_service, the rest      -> seq2seq
    student_trainer                -> seq2seq, the client side
    imitkd                         -> all

Ray is imported in student_trainer/ray_runtime alone, gRPC in teacher_service and the generated
stubs alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("imitkd", "protos", "seq2seq", "student_trainer", "teacher_service")
GRPC = ("grpc", "grpc_health", "grpc_reflection", "grpc_tools")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    return {name_of(p): p for package in OURS for p in sorted((ROOT / package).rglob("*.py"))}


def typing_only(tree: ast.Module) -> set[ast.stmt]:
    """Statements under ``if TYPE_CHECKING:``, which never run."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
        if isinstance(inner, ast.stmt)
    }


def read_imports(text: str, module: str, is_package: bool, *, typing: bool) -> set[str]:
    """Dotted names imported anywhere in a module, inside functions too."""
    tree = ast.parse(text)
    skipped = set() if typing else typing_only(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            found.add(base)
            # `from package import module` reaches the module as well.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@cache
def imports(module: str, typing: bool = True) -> frozenset[str]:
    path = sources()[module]
    return frozenset(
        read_imports(path.read_text(), module, path.name == "__init__.py", typing=typing)
    )


def packages(names: Iterator[str] | frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@cache
def client_side() -> frozenset[str]:
    """The modules of teacher_service that its codec, client, score store and projection reach."""
    found, waiting = set(), ["teacher_service.client", "teacher_service.codec"]
    waiting.append("teacher_service.projection")
    waiting += [m for m in sources() if m.startswith("teacher_service.score_store")]
    while waiting:
        module = waiting.pop()
        if module in sources() and module not in found:
            found.add(module)
            waiting += [n for n in imports(module, False) if n.startswith("teacher_service.")]
    return frozenset(found | {"teacher_service"})


def members(package: str) -> list[str]:
    found = [m for m in sources() if m.split(".")[0] == package]
    assert found, f"{package} has no modules: the test looks in the wrong place"
    return found


def ours(module: str) -> set[str]:
    return packages(imports(module)) & set(OURS)


# ------------------------------------------------------------------------------- reading the source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import ray", {"ray"}),
        ("def f():\n    import grpc.aio as g", {"grpc.aio"}),
        ("from a.b import c", {"a.b", "a.b.c"}),
        ("from . import x", {"p.q", "p.q.x"}),
        ("from ..z import y", {"p.z", "p.z.y"}),
        ("if TYPE_CHECKING:\n    import ray\nimport os", {"os"}),
        ("try:\n    import ray\nexcept ImportError:\n    pass", {"ray"}),
    ],
)
def test_the_reader_sees_every_form_of_import(text: str, expected: set[str]) -> None:
    assert read_imports(text, "p.q.m", False, typing=False) == expected


def test_the_reader_sees_relative_imports_of_packages() -> None:
    assert read_imports("from .a import b", "p.q", True, typing=True) == {"p.q.a", "p.q.a.b"}


# ---------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("package", ["seq2seq", "protos"])
def test_the_foundations_know_nothing_of_the_rest(package: str) -> None:
    assert {m: ours(m) - {package} for m in members(package) if ours(m) - {package}} == {}


def test_the_client_side_of_the_service_knows_the_contract_alone() -> None:
    assert {"teacher_service.client", "teacher_service.codec"} < client_side()
    for module in client_side():
        assert ours(module) <= {"protos", "teacher_service"}, module
        assert not packages(imports(module)) & {"torch", "pydantic", "ray"}, module


def test_the_service_knows_the_models_and_the_contract() -> None:
    for module in members("teacher_service"):
        assert ours(module) <= {"protos", "seq2seq", "teacher_service"}, module


def test_the_trainer_knows_the_teacher_by_its_client_alone() -> None:
    for module in members("student_trainer"):
        assert ours(module) <= {"seq2seq", "student_trainer", "teacher_service"}, module
        reached = {n for n in imports(module) if n in sources() and n.startswith("teacher_service")}
        assert reached <= client_side(), module


@pytest.mark.parametrize("package", OURS)
def test_ray_is_imported_in_its_runtime_alone(package: str) -> None:
    for module in members(package):
        if not module.startswith("student_trainer.ray_runtime"):
            assert "ray" not in packages(imports(module)), module


@pytest.mark.parametrize("package", ["imitkd", "seq2seq", "student_trainer"])
def test_grpc_is_imported_by_the_service_alone(package: str) -> None:
    for module in members(package):
        assert not packages(imports(module)) & set(GRPC), module
        stubs = [n for n in imports(module) if n.endswith("_pb2_grpc")]
        assert stubs == [], module


def test_the_batcher_knows_neither_model_nor_network() -> None:
    assert not packages(imports("teacher_service.batching")) & {"torch", *GRPC}


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_models_of_transformers_are_met_in_seq2seq_alone(library: str) -> None:
    """One module loads them, one reads their tokenizers; the rest knows the shared interfaces.

    An export is checked with the library itself, since that is what it is for.
    """
    of = {
        "transformers": ["imitkd.export.library", "seq2seq.huggingface_directory"],
        "tokenizers": ["seq2seq.tokenizers_vocabulary"],
    }
    assert sorted(m for m in sources() if library in packages(imports(m))) == of[library]


def test_nothing_imports_the_tests() -> None:
    for module in sources():
        assert not packages(imports(module)) & {"tests", "conftest"}, module


def test_the_driver_of_training_knows_neither_ray_nor_the_network() -> None:
    for module in ("student_trainer.driver", "student_trainer.executor"):
        assert not packages(imports(module)) & {"ray", "torch", *GRPC}, module


# ------------------------------------------------------------------------- seen by the interpreter


def loaded(*modules: str) -> set[str]:
    """Top-level packages in memory after a fresh interpreter imported ``modules``."""
    code = f"import sys, {', '.join(modules)}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_asking_a_teacher_loads_no_model_library() -> None:
    found = loaded("teacher_service.client", "teacher_service.codec")
    assert {"grpc", "numpy"} <= found
    assert not {"torch", "ray", "seq2seq", "student_trainer", "imitkd"} & found


def test_the_models_load_neither_network_nor_cluster() -> None:
    found = loaded(*members("seq2seq"))
    assert "torch" in found
    assert not {"ray", "protos", "teacher_service", "student_trainer", "imitkd", *GRPC} & found
    assert not {"transformers", "tokenizers"} & found, "they are for directories of their own form"


def test_inline_training_loads_no_ray() -> None:
    modules = [m for m in members("student_trainer") if "ray_runtime" not in m]
    found = loaded(*(m for m in modules if not m.endswith("__main__")))
    assert "torch" in found and "ray" not in found
