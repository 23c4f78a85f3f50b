"""The files of each form of export, and how each is opened again to be checked."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from imitkd.engines.ctranslate2 import tokens_of
from imitkd.engines.manifest import TOKENIZER_DIR, Manifest
from imitkd.engines.onnx import DECODER_FILE, ENCODER_FILE
from imitkd.engines.opening import FORMS, open_engine
from imitkd.export import huggingface
from imitkd.export.checking import EnginePeer, Peer
from imitkd.export.source import Source
from imitkd.export.tokenizer_json import save_tokenizer
from seq2seq import ctranslate2_form, onnx_form
from seq2seq.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from seq2seq.errors import UserError
from seq2seq.transformer import Transformer

QUANTIZATIONS = ("float32", "int8", "int8_float32")
_GENERATION_FILE = "generation_config.json"


def check_form(source: Source, form: str, quantization: str) -> None:
    """Refuse what a form cannot hold.

    Raises:
        UserError: it is unknown, or not for this decoder or quantisation.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise UserError(f"unknown quantisation {quantization!r}; known: {known}")
    if form != "ctranslate2" and quantization != "float32":
        raise UserError(
            f"{form} is exported in float32 alone, not {quantization}; quantised weights go with "
            "--to ctranslate2"
        )
    if form != "onnx" and not isinstance(source.model, Transformer):
        cell = getattr(source.model.config, "cell", "recurrent")
        raise UserError(
            f"{form} has no decoder with {cell} cells, which {source.directory.path} has; export "
            "it with --to onnx"
        )


def write_files(source: Source, manifest: Manifest, directory: Path) -> None:
    """Model and tokenizer, then the manifest with their digests."""
    model, vocabulary = source.model, source.directory.vocabulary
    if manifest.form == "onnx":
        onnx_form.save(model, directory / ENCODER_FILE, directory / DECODER_FILE)
    elif manifest.form == "ctranslate2":
        assert isinstance(model, Transformer)
        ctranslate2_form.save(
            model, tokens_of(vocabulary), directory, vocabulary.unk_id, manifest.quantization
        )
    if manifest.form == "huggingface":
        _write_huggingface(source, manifest, directory)
        save_tokenizer(vocabulary, directory, manifest.max_source_length)
    else:
        vocabulary.save(directory / TOKENIZER_DIR)
    manifest.write(directory)


def open_peer(manifest: Manifest, directory: Path) -> Peer:
    """The export as its users have it."""
    if manifest.form == "huggingface":
        from imitkd.export.library import LibraryPeer

        return LibraryPeer(directory, manifest.limit)
    return EnginePeer(open_engine(directory))


def _write_huggingface(source: Source, manifest: Manifest, directory: Path) -> None:
    model = source.model
    assert isinstance(model, Transformer)
    values = huggingface.configuration(model.config) | {"dtype": "float32"}
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n")
    # The embeddings are shared: they lie in the file once, and the library ties them again.
    tied = ("embed_tokens.weight", "lm_head.weight")
    state = {k: v for k, v in huggingface.state(model).items() if not k.endswith(tied)}
    tensors = {name: tensor.float().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, str(directory / WEIGHTS_FILE), metadata={"format": "pt"})
    (directory / WEIGHTS_FILE).chmod((directory / CONFIG_FILE).stat().st_mode)
    settings = {
        "decoder_start_token_id": manifest.start_id,
        "eos_token_id": manifest.eos_id,
        "pad_token_id": manifest.pad_id,
        "bos_token_id": manifest.start_id,
        "max_length": manifest.max_target_length + 1,
        "num_beams": 1,
        "do_sample": False,
        "suppress_tokens": manifest.suppressed,
    }
    (directory / _GENERATION_FILE).write_text(json.dumps(settings, indent=2) + "\n")
