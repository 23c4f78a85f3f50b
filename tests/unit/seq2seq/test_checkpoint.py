"""Model directories: faults on one line, nothing half-written, what is read is what was saved."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2seq import checkpoint
from seq2seq.checkpoint import (
    atomic_directory,
    atomic_file,
    content_revision,
    load_model_directory,
    save_model_directory,
)
from seq2seq.errors import UserError
from seq2seq.transformer import Transformer
from tests.builders import tiny_model, tiny_vocabulary, weights_of

INPUT = (torch.tensor([[5, 9, 40, 1]]), torch.tensor([4]), torch.tensor([[3, 8, 12]]))


@pytest.fixture
def model() -> Transformer:
    return tiny_model(1, vocab_size=48)


def save(path: Path, model: Transformer, **more: Any) -> Path:
    save_model_directory(path, model, tiny_vocabulary(), name="tiny", card="# Tiny\n", **more)
    return path


def listing(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_model_directory(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


# ------------------------------------------------------------------------------- broken directories


@pytest.mark.parametrize("device", ["meta", "tpu", "", "gpu:0"])
def test_a_device_that_is_none_here(tmp_path: Path, model: Transformer, device: str) -> None:
    with pytest.raises(UserError, match=r"not usable \(neither cpu nor cuda\[:I\]\); use cpu"):
        load_model_directory(save(tmp_path / "m", model), device)


def test_a_missing_directory_is_no_model_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is no model directory .*config.json is missing")


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"model": 3}', "\udcff"])
def test_a_broken_configuration(tmp_path: Path, model: Transformer, content: str) -> None:
    path = save(tmp_path / "m", model)
    (path / "config.json").write_text(content, errors="surrogateescape")
    refused(path, r"config\.json (is not valid JSON|has no 'model' section)")


@pytest.mark.parametrize("change", [{"kind": "rnn"}, {"width": 3}, {"heads": 5}, {"d_model": "x"}])
def test_a_configuration_of_no_model(
    tmp_path: Path, model: Transformer, change: dict[str, Any]
) -> None:
    path = save(tmp_path / "m", model)
    config = json.loads((path / "config.json").read_text())
    config["model"] |= change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_model_directory(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("model.safetensors", r"model\.safetensors is missing"),
        ("tokenizer/sentencepiece.model", "no tokenizer at"),
    ],
)
def test_a_missing_file(tmp_path: Path, model: Transformer, file: str, match: str) -> None:
    path = save(tmp_path / "m", model)
    (path / file).unlink()
    refused(path, match)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_cut_weights(tmp_path: Path, model: Transformer, keep: int) -> None:
    path = save(tmp_path / "m", model)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(path, r"model\.safetensors is not readable .*copy it again")


def test_weights_of_another_shape(tmp_path: Path, model: Transformer) -> None:
    path = save(tmp_path / "m", model)
    other = save(tmp_path / "o", tiny_model(vocab_size=48, ffn=32))
    (path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    refused(path, r"does not fit its config\.json .*size mismatch")


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_weights_with_other_names(tmp_path: Path, model: Transformer, fault: str) -> None:
    path = save(tmp_path / "m", model)
    file = path / "model.safetensors"
    tensors = load_file(str(file))
    if fault == "missing":
        del tensors["logit_bias"]
    else:
        tensors["extra"] = torch.zeros(1)
    save_file(tensors, str(file))
    refused(path, f"does not fit its config.json .*{fault.capitalize()} key")


def test_a_tokenizer_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path / "m", tiny_model(vocab_size=40))
    refused(path, "the tokenizer has 48 pieces but the model 40")


def test_another_tokenizer_of_the_same_size(tmp_path: Path, model: Transformer) -> None:
    """Nothing but the fingerprint can tell: silent, it would turn every word into another."""
    from seq2seq.vocabulary import SentencePieceVocabulary
    from tests.builders import tiny_text

    path = save(tmp_path / "m", model)
    other = SentencePieceVocabulary.train([line.replace("a", "z") for line in tiny_text()], 48)
    other.save(path / "tokenizer")
    refused(path, "tokenizer/ is not the one the model was trained with .*copy")


# ---------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(tmp_path: Path, model: Transformer, dtype: torch.dtype) -> None:
    found = load_model_directory(str(save(tmp_path / "m", model.train(), dtype=dtype)))
    expected = {k: v.to(dtype).float() for k, v in weights_of(model).items()}
    loaded = weights_of(found.model)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[k], v) for k, v in expected.items())
    stored = load_file(str(tmp_path / "m" / "model.safetensors"))
    assert {t.dtype for t in stored.values()} == {dtype}
    assert not found.model.training
    assert (found.name, found.path) == ("tiny", tmp_path / "m")
    assert found.model.config == model.config
    assert found.vocabulary.fingerprint == tiny_vocabulary().fingerprint
    if dtype == torch.float32:
        assert torch.equal(found.model(*INPUT), model.eval()(*INPUT))


def test_loads_in_another_type(tmp_path: Path, model: Transformer) -> None:
    found = load_model_directory(save(tmp_path / "m", model), dtype=torch.float64)
    assert {p.dtype for p in found.model.parameters()} == {torch.float64}
    torch.testing.assert_close(
        found.model(*INPUT), load_model_directory(tmp_path / "m").model.double()(*INPUT)
    )


def test_given_weights_are_saved_in_place_of_the_models(tmp_path: Path, model: Transformer) -> None:
    other = {k: v + 1 for k, v in weights_of(model).items()}
    save(tmp_path / "m", model, weights=other, dtype=torch.float32)
    loaded = weights_of(load_model_directory(tmp_path / "m").model)
    assert all(torch.equal(loaded[k], v) for k, v in other.items())


def test_the_directory_holds_what_the_design_names(tmp_path: Path, model: Transformer) -> None:
    files = listing(save(tmp_path / "a" / "b" / "m", model))
    assert sorted(files) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer/sentencepiece.model",
        "tokenizer/vocabulary.json",
    ]
    assert files["README.md"] == b"# Tiny\n"
    assert os.stat(tmp_path / "a" / "b" / "m").st_mode & 0o777 == 0o755


def test_the_revision_is_a_hash_of_weights_and_configuration(
    tmp_path: Path, model: Transformer
) -> None:
    first = load_model_directory(save(tmp_path / "a", model)).revision
    assert first == content_revision(tmp_path / "a") and len(first) == 7 + 64
    assert load_model_directory(save(tmp_path / "b", model)).revision == first
    (tmp_path / "b" / "README.md").write_text("another card")
    assert content_revision(tmp_path / "b") == first
    with torch.no_grad():
        model.logit_bias[7] += 0.01
    assert content_revision(save(tmp_path / "c", model)) != first
    save_model_directory(
        tmp_path / "b", tiny_model(1, vocab_size=48), tiny_vocabulary(), name="other", card=""
    )
    assert content_revision(tmp_path / "b") != first


# -------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may not grow past 4 KiB: a real write fault, in the middle of the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def out_of_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_fault_while_writing_leaves_nothing(
    tmp_path: Path, model: Transformer, small_files: None
) -> None:
    with pytest.raises(UserError, match=r"cannot write .*/m: .*free disk space") as caught:
        save(tmp_path / "m", model)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_directory_that_was_there(
    tmp_path: Path, model: Transformer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = listing(save(tmp_path / "m", model))
    monkeypatch.setattr(checkpoint.os, call, out_of_space)
    with pytest.raises(UserError, match=r"cannot write .*/m: No space left on device; free disk"):
        save(tmp_path / "m", tiny_model(2, vocab_size=48))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and listing(tmp_path / "m") == before


def test_a_fault_between_the_two_renames_puts_the_old_directory_back(
    tmp_path: Path, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(save(tmp_path / "m", model))
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            out_of_space()
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    with pytest.raises(UserError, match="No space left"):
        save(tmp_path / "m", tiny_model(2, vocab_size=48))
    monkeypatch.undo()
    assert len(calls) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and listing(tmp_path / "m") == before


def test_a_fault_of_the_caller_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_directory(tmp_path / "d") as fresh:
        (fresh / "a").write_text("x")
        raise KeyError("mine")
    with pytest.raises(KeyError), atomic_file(tmp_path / "f") as file:
        file.write_text("x")
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", [atomic_directory, atomic_file])
def test_a_parent_that_is_a_file_is_one_clear_line(tmp_path: Path, writer: Any) -> None:
    (tmp_path / "file").write_text("x")
    refusal = pytest.raises(UserError, match=r"cannot write .*choose another directory")
    with refusal as caught, writer(tmp_path / "file" / "m"):
        pass
    assert "\n" not in str(caught.value)


def test_a_replacement_is_whole_and_leaves_no_trace(tmp_path: Path, model: Transformer) -> None:
    path = save(tmp_path / "m", model)
    (path / "stale.txt").write_text("from an earlier version")
    other = tiny_model(2, vocab_size=48)
    save(path, other, dtype=torch.float32)
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and not (path / "stale.txt").exists()
    loaded = weights_of(load_model_directory(path).model)
    assert all(torch.equal(loaded[k], v) for k, v in weights_of(other).items())


def test_nothing_stands_in_place_before_the_block_ends(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as fresh:
        (fresh / "a").write_text("x")
        assert not (tmp_path / "d").exists()
    assert listing(tmp_path) == {"d/a": b"x"}
    (tmp_path / "f").write_text("old")
    with atomic_file(tmp_path / "f") as file:
        file.write_text("new")
        assert (tmp_path / "f").read_text() == "old"
    assert listing(tmp_path) == {"d/a": b"x", "f": b"new"}


def test_a_full_disk_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(checkpoint.os, "fsync", out_of_space)
    with pytest.raises(UserError, match="No space left"), atomic_file(tmp_path / "f") as file:
        file.write_text("new")
    assert listing(tmp_path) == {"f": b"old"}
