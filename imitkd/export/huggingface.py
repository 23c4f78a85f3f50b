"""A Transformer in the form of ``transformers``: Marian for ``norm: post``, Pegasus for ``pre``.

Nothing here imports ``transformers``: a configuration and a state dict are plain values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from seq2seq.transformer import Transformer, TransformerConfig

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}


def configuration(config: TransformerConfig) -> dict[str, Any]:
    """The values of a ``MarianConfig`` or ``PegasusConfig``, ``model_type`` among them."""
    marian = config.norm == "post"
    values: dict[str, Any] = {
        "model_type": "marian" if marian else "pegasus",
        "architectures": ["MarianMTModel" if marian else "PegasusForConditionalGeneration"],
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.ffn,
        "decoder_ffn_dim": config.ffn,
        "activation_function": _ACTIVATIONS[config.activation],
        "dropout": config.dropout,
        "activation_dropout": config.dropout,
        "attention_dropout": 0.0,
        "max_position_embeddings": max(config.max_source_length, config.max_target_length) + 1,
        "scale_embedding": True,
        "tie_word_embeddings": True,
        "pad_token_id": config.pad_id,
        "bos_token_id": config.start_id,
        "eos_token_id": config.eos_id,
        "decoder_start_token_id": config.start_id,
        "forced_eos_token_id": None,
    }
    if marian:
        values["decoder_vocab_size"] = config.vocab_size
        values["share_encoder_decoder_embeddings"] = True
    return values


def state(model: Transformer) -> dict[str, Tensor]:
    """Weights under the names of ``transformers``; views where that is possible."""
    return dict(_named(model))


def _named(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    shared = model.embedding.weight.detach()
    yield "final_logits_bias", model.logit_bias.detach()[None]
    for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens"):
        yield f"{name}.weight", shared
    yield "lm_head.weight", shared
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", model.positions
        norm = model.get_submodule(f"{side}_norm")
        if isinstance(norm, nn.LayerNorm):
            yield from _affine(f"model.{side}.layer_norm", norm.weight, norm.bias)
    for number, layer in enumerate(model.encoder_layers):
        prefix = f"model.encoder.layers.{number}"
        yield from _own_attention(f"{prefix}.self_attn", layer.get_submodule("attention"))
        yield from _norm(f"{prefix}.self_attn_layer_norm", layer.get_submodule("attention_block"))
        yield from _feed_forward(prefix, layer)
    for number, layer in enumerate(model.decoder_layers):
        prefix = f"model.decoder.layers.{number}"
        yield from _own_attention(f"{prefix}.self_attn", layer.get_submodule("self_attention"))
        yield from _norm(f"{prefix}.self_attn_layer_norm", layer.get_submodule("self_block"))
        yield from _cross_attention(
            f"{prefix}.encoder_attn", layer.get_submodule("cross_attention")
        )
        yield from _norm(f"{prefix}.encoder_attn_layer_norm", layer.get_submodule("cross_block"))
        yield from _feed_forward(prefix, layer)


def _affine(name: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", weight.detach()
    yield f"{name}.bias", bias.detach()


def _linear(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(module, nn.Linear)
    yield from _affine(name, module.weight, module.bias)


def _norm(name: str, block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    norm = block.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    yield from _affine(name, norm.weight, norm.bias)


def _split(prefix: str, names: str, packed: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The rows of one matrix as several projections."""
    assert isinstance(packed, nn.Linear)
    weights, biases = packed.weight.chunk(len(names)), packed.bias.chunk(len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        yield from _affine(f"{prefix}.{name}_proj", weight, bias)


def _own_attention(prefix: str, attention: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from _split(prefix, "qkv", attention.get_submodule("packed"))
    yield from _linear(f"{prefix}.out_proj", attention.get_submodule("out"))


def _cross_attention(prefix: str, attention: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from _linear(f"{prefix}.q_proj", attention.get_submodule("query"))
    yield from _split(prefix, "kv", attention.get_submodule("packed"))
    yield from _linear(f"{prefix}.out_proj", attention.get_submodule("out"))


def _feed_forward(prefix: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from _linear(f"{prefix}.fc1", layer.get_submodule("feed_forward.inner"))
    yield from _linear(f"{prefix}.fc2", layer.get_submodule("feed_forward.outer"))
    yield from _norm(f"{prefix}.final_layer_norm", layer.get_submodule("feed_forward_block"))
