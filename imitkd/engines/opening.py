"""The engine that fits a directory."""

from __future__ import annotations

from pathlib import Path

from imitkd.engines.engine import Engine, cpu_only
from imitkd.engines.manifest import MANIFEST_FILE, Manifest, is_export
from seq2seq.errors import UserError

FORMS = ("ctranslate2", "huggingface", "onnx")


def open_engine(path: Path, threads: int | None = None, device: str = "cpu") -> Engine:
    """Load a directory: an export, a model directory of ours or one of ``transformers``.

    An export is checked against its digests first. Only what runs it is imported.

    Args:
        threads: None takes all cores.

    Raises:
        UserError: the directory is none of these or damaged, what runs it is not installed, or the
            device is not for it.
    """
    path = Path(path)
    manifest = Manifest.read(path) if is_export(path) else None
    if manifest is None or manifest.form == "huggingface":
        from imitkd.engines.own import OwnEngine

        return OwnEngine.open(path, threads, device, manifest)
    cpu_only(device)
    if manifest.form == "ctranslate2":
        from imitkd.engines.ctranslate2 import CTranslate2Engine

        return CTranslate2Engine(path, manifest, threads)
    if manifest.form == "onnx":
        from imitkd.engines.onnx import OnnxEngine

        return OnnxEngine(path, manifest, threads)
    raise UserError(
        f"{path / MANIFEST_FILE} names the form {manifest.form!r}; known: {', '.join(FORMS)}"
    )
