"""Model directories and checkpoints, written atomically and read without pickle.

A model directory holds ``config.json``, ``model.safetensors``, ``tokenizer/`` and a model card
``README.md``; any of them can be teacher or student.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.vocabulary import Vocabulary, load_vocabulary

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_DIR, CARD_FILE = (
    "config.json",
    "model.safetensors",
    "tokenizer",
    "README.md",
)


@dataclass(frozen=True)
class ModelDirectory:
    """A loaded model directory.

    Attributes:
        revision: ``sha256:...`` of the weights and the configuration: the model's identity.
        name: from the configuration file, for people.
    """

    path: Path
    model: Seq2SeqModel
    vocabulary: Vocabulary
    revision: str
    name: str


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Fill a fresh directory beside ``path``, then put it in place whole, replacing an older one.

    Raises:
        UserError: the disk is full or not writable; nothing half-written is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(_write_fault(path, error)) from error
    try:
        yield fresh
        _sync_tree(fresh)
        fresh.chmod(0o755)
        _put_in_place(fresh, path)
    except (OSError, SafetensorError) as error:
        raise UserError(_write_fault(path, error)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, path: Path) -> None:
    """Rename ``fresh`` to ``path``; what stood there comes back if that fails."""
    if not path.exists():
        os.replace(fresh, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.replace(path, old / "replaced")
        try:
            os.replace(fresh, path)
        except BaseException:
            os.replace(old / "replaced", path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_is_new(output: Path) -> None:
    """For commands that make a model of another: they must not replace what they are made of.

    Raises:
        UserError: something is there that is no empty directory.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is there already; choose another --output, or remove it first")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a fresh file beside ``path``, then put it in place whole.

    Raises:
        UserError: the disk is full or not writable; an older file stays as it was.
    """
    path = Path(path)
    fresh = path.parent / f".{path.name}.{os.getpid()}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        _sync(fresh)
        os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise UserError(_write_fault(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()


def save_model_directory(
    path: Path,
    model: Seq2SeqModel,
    vocabulary: Vocabulary,
    *,
    name: str,
    card: str,
    weights: dict[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model directory atomically.

    Args:
        card: the model card, Markdown.
        weights: state to save instead of the model's own (an average, say).
        dtype: of the weights on disk.

    Raises:
        UserError: the disk is full or not writable.
    """
    state = model.state_dict() if weights is None else weights
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in state.items()}
    config = {"name": name, "vocabulary_fingerprint": vocabulary.fingerprint}
    config |= {"model": model.config.model_dump()}
    with atomic_directory(Path(path)) as fresh:
        save_file(tensors, str(fresh / WEIGHTS_FILE))
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        # safetensors makes its file for the owner alone; a model is to be served by others too.
        shutil.copymode(fresh / CONFIG_FILE, fresh / WEIGHTS_FILE)
        vocabulary.save(fresh / TOKENIZER_DIR)
        (fresh / CARD_FILE).write_text(card)


def load_model_directory(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    target_prefix: str | None = None,
) -> ModelDirectory:
    """Read a model directory, ours or one of ``transformers``; the model is in evaluation mode.

    Args:
        target_prefix: for the latter, pieces that every target begins with, separated by spaces;
            None leaves it to its configuration.

    Raises:
        UserError: a file is missing or broken, weights, configuration and tokenizer do not belong
            together, or the device is not there.
    """
    path = Path(path)
    check_device(device)
    if is_huggingface(path):
        from seq2seq.huggingface_directory import load_huggingface_directory

        return load_huggingface_directory(path, device, dtype, target_prefix)
    config = read_config(path)
    if target_prefix is not None:
        raise UserError(
            f"{path}: a target prefix is for models of transformers; leave --target-prefix out"
        )
    vocabulary = load_vocabulary(path / TOKENIZER_DIR)
    model = build_model(config["model"])
    if vocabulary.size != model.config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {vocabulary.size} pieces but the model "
            f"{model.config.vocab_size}; copy the directory again"
        )
    stated = config.get("vocabulary_fingerprint", vocabulary.fingerprint)
    if stated != vocabulary.fingerprint:
        raise UserError(
            f"{path}: {TOKENIZER_DIR}/ is not the one the model was trained with (fingerprint "
            f"{vocabulary.fingerprint}, expected {stated}); copy the directory again"
        )
    tensors = load_weights(path / WEIGHTS_FILE)
    load_state(model, tensors, path / WEIGHTS_FILE)
    model.to(device=device, dtype=dtype).eval()
    return ModelDirectory(path, model, vocabulary, content_revision(path), config["name"])


def check_device(device: torch.device | str) -> None:
    """Use the device once.

    Raises:
        UserError: it is neither ``cpu`` nor ``cuda``, or not there.
    """
    if str(device).partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {str(device)!r} is not usable (neither cpu nor cuda[:I]); use cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {str(device)!r} is not usable ({reason}); use cpu") from error


def load_model_vocabulary(path: Path | str) -> Vocabulary:
    """The vocabulary of a model directory of either kind, without its weights.

    Raises:
        UserError: the tokenizer is missing or broken.
    """
    path = Path(path)
    if is_huggingface(path):
        from seq2seq.huggingface_directory import load_huggingface_vocabulary

        return load_huggingface_vocabulary(path)
    return load_vocabulary(path / TOKENIZER_DIR)


def is_huggingface(path: Path) -> bool:
    """Whether ``config.json`` is one of ``transformers``: it names a ``model_type``."""
    if not (path / CONFIG_FILE).is_file():
        return False
    config = _read_json(path / CONFIG_FILE)
    return "model" not in config and isinstance(config.get("model_type"), str)


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a model directory of ours.

    Raises:
        UserError: missing or broken.
    """
    file = Path(path) / CONFIG_FILE
    if not file.is_file():
        raise UserError(
            f"{path} is no model directory ({CONFIG_FILE} is missing); give a directory written by "
            "`imitkd teacher train`, `imitkd train` or save_pretrained of transformers"
        )
    config = _read_json(file)
    if not isinstance(config.get("model"), dict):
        raise UserError(f"{file} has no 'model' section; copy the directory again")
    config.setdefault("name", Path(path).resolve().name)
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); copy the directory again") from error
    return config if isinstance(config, dict) else {}


def load_weights(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file.

    Raises:
        UserError: missing or broken.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing; copy the directory again")
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not readable ({error}); copy it again") from error


def load_state(model: Seq2SeqModel, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Put tensors into a model of exactly that shape.

    Raises:
        UserError: names or shapes differ.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{file} does not fit its config.json ({reason}); copy the directory again"
        ) from error


def content_revision(path: Path) -> str:
    """``sha256:...`` over configuration and weights of a model directory."""
    return files_revision([Path(path) / CONFIG_FILE, Path(path) / WEIGHTS_FILE])


def files_revision(paths: Iterable[Path], settings: str = "") -> str:
    """``sha256:...`` over names and contents of files, after ``settings``."""
    digest = hashlib.sha256(settings.encode())
    for path in paths:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    for directory, _, files in os.walk(path):
        for name in files:
            _sync(Path(directory) / name)
        _sync(Path(directory))


def _write_fault(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot write {path}: {reason}; free disk space or choose another directory"
