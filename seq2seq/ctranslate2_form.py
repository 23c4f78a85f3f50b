"""A Transformer in the form of CTranslate2, straight from its weights.

CTranslate2 is an optional package; it is imported where it is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from seq2seq.errors import UserError
from seq2seq.transformer import Transformer
from seq2seq.vocabulary import UNK_ID

_ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swish": "SWISH"}


def specification(model: Transformer, tokens: Sequence[str], unk_id: int = UNK_ID) -> Any:
    """The ``ctranslate2.specs.TransformerSpec`` of the model, weights in float32.

    Args:
        tokens: the piece of every id, all different.
        unk_id: of the vocabulary.

    Raises:
        UserError: CTranslate2 is not installed.
    """
    common_spec, transformer_spec = _specs()
    config = model.config
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.heads,
        pre_norm=config.norm == "pre",
        activation=common_spec.Activation[_ACTIVATIONS[config.activation]],
    )
    spec.register_source_vocabulary(list(tokens))
    spec.register_target_vocabulary(list(tokens))
    spec.config.bos_token = tokens[config.start_id]
    spec.config.eos_token = tokens[config.eos_id]
    spec.config.unk_token = tokens[unk_id]
    spec.config.decoder_start_token = tokens[config.start_id]
    spec.config.add_source_eos = False
    embedding, scale = model.embedding.weight, config.d_model**0.5
    for side in (spec.encoder, spec.decoder):
        tables = side.embeddings if isinstance(side.embeddings, list) else [side.embeddings]
        tables[0].weight = _array(embedding)
        side.scale_embeddings = scale
        side.position_encodings.encodings = _array(model.positions)
    _set_norm(spec.encoder, model.encoder_norm)
    _set_norm(spec.decoder, model.decoder_norm)
    for into, layer in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _set_attention(into.self_attention, layer, "attention")
        _set_feed_forward(into.ffn, layer)
    for into, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        _set_attention(into.self_attention, layer, "self_attention", "self_block")
        _set_attention(into.attention, layer, "cross_attention", "cross_block")
        _set_feed_forward(into.ffn, layer)
    spec.decoder.projection.weight = _array(embedding)
    spec.decoder.projection.bias = _array(model.logit_bias)
    return spec


def save(
    model: Transformer,
    tokens: Sequence[str],
    directory: Path,
    unk_id: int = UNK_ID,
    quantization: str = "float32",
) -> None:
    """Write a directory that ``ctranslate2.Translator`` opens; it must exist.

    Args:
        quantization: a type of CTranslate2's, such as ``float32``, ``int8``, ``int8_float32``.
    """
    spec = specification(model, tokens, unk_id)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(directory))


def translator(model: Transformer, threads: int) -> Any:
    """A ``ctranslate2.Translator`` of the present weights, in memory; its tokens are ids as text.

    Raises:
        UserError: CTranslate2 is not installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        save(model, [str(i) for i in range(model.config.vocab_size)], Path(scratch))
        files = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    import ctranslate2

    return ctranslate2.Translator(
        "student", files=files, compute_type="float32", inter_threads=1, intra_threads=threads
    )


def _specs() -> tuple[Any, Any]:
    try:
        from ctranslate2.specs import common_spec, transformer_spec
    except ImportError as error:
        raise UserError(
            "CTranslate2 is not installed; pip install 'imitkd[ctranslate2]'"
        ) from error
    return common_spec, transformer_spec


def _array(tensor: Tensor) -> np.ndarray:
    # A copy: CTranslate2 quantises in place, which must not reach the model.
    return np.array(tensor.detach().float().cpu().numpy())


def _set_linear(into: Any, module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    into.weight, into.bias = _array(module.weight), _array(module.bias)


def _set_norm(into: Any, module: nn.Module) -> None:
    """The layer norm after a stack; one of the post-norm layout has none."""
    if isinstance(module, nn.LayerNorm):
        _set_affine(into.layer_norm, module)


def _set_affine(into: Any, norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    into.gamma, into.beta = _array(norm.weight), _array(norm.bias)


def _set_attention(into: Any, layer: nn.Module, name: str, block: str = "attention_block") -> None:
    attention = layer.get_submodule(name)
    query = attention.query
    if isinstance(query, nn.Linear):
        _set_linear(into.linear[0], query)
        _set_linear(into.linear[1], attention.get_submodule("packed"))
    else:
        _set_linear(into.linear[0], attention.get_submodule("packed"))
    _set_linear(into.linear[-1], attention.get_submodule("out"))
    _set_affine(into.layer_norm, layer.get_submodule(f"{block}.norm"))


def _set_feed_forward(into: Any, layer: nn.Module) -> None:
    _set_linear(into.linear_0, layer.get_submodule("feed_forward.inner"))
    _set_linear(into.linear_1, layer.get_submodule("feed_forward.outer"))
    _set_affine(into.layer_norm, layer.get_submodule("feed_forward_block.norm"))
