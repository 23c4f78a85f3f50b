"""Generate the Python side of the contract: ``python -m protos.generate [--check]``.

protoc names modules by their path below ``protos/`` (which is where buf wants a package's files);
the imports are rewritten so that the result is importable as ``protos.teacher.v1``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCES = ("teacher/v1/teacher.proto",)


def generate(out: Path) -> list[Path]:
    """Write ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` below ``out``.

    Returns:
        Paths relative to ``out``, sorted.

    Raises:
        RuntimeError: protoc refused the contract.
        ImportError: grpcio-tools is not installed.
    """
    from grpc_tools import protoc

    arguments = ["protoc", f"-I{ROOT}"]
    arguments += [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main([*arguments, *SOURCES]) != 0:
        raise RuntimeError("protoc refused the contract; its message is above")
    found = sorted(path for path in out.rglob("*_pb2*") if path.suffix in (".py", ".pyi"))
    for path in found:
        text = path.read_text()
        text = re.sub(r"^from (teacher\.v\d+) import", r"from protos.\1 import", text, flags=re.M)
        path.write_text(text)
    return [path.relative_to(out) for path in found]


def stale() -> list[str]:
    """Generated files whose committed text differs from a fresh generation; empty when none do."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        return [
            str(name)
            for name in generate(fresh)
            if not (ROOT / name).is_file()
            or (ROOT / name).read_text() != (fresh / name).read_text()
        ]


def main() -> int:
    """Generate, or with ``--check`` only say what is out of date (exit 1)."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    if parser.parse_args().check:
        out_of_date = stale()
        for name in out_of_date:
            print(f"protos/{name} is out of date; run: python -m protos.generate", file=sys.stderr)
        return 1 if out_of_date else 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in generate(Path(scratch)):
            (ROOT / path).write_text((Path(scratch) / path).read_text())
            print(f"protos/{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
