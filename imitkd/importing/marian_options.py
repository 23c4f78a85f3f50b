"""What a Marian model says of itself (``special:model.yml``), as the shape of a model of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from seq2seq.errors import UserError

OPTIONS_ITEM = "special:model.yml"
_LONGEST_OPTIONS = 1 << 16


@dataclass(frozen=True)
class _Demand:
    """An option that must have one of a few values; one that is absent has the first.

    Attributes:
        reason: why any other is refused.
    """

    option: str
    values: tuple[Any, ...]
    reason: str


_NO_SUCH_PART = "our models have no such part"
_DEMANDS = (
    _Demand("type", ("transformer",), "only Transformers and their SSRU variant are known"),
    _Demand(
        "transformer-decoder-autoreg",
        ("self-attention", "rnn"),
        "only self-attention and SSRU decoders are known",
    ),
    _Demand("tied-embeddings-all", (True,), "our models have one embedding for both sides"),
    _Demand("transformer-ffn-activation", ("relu", "swish"), "no such activation is known"),
    _Demand("transformer-ffn-depth", (2,), "our feed-forward blocks have two layers"),
    _Demand("transformer-decoder-ffn-depth", (2, 0), "our feed-forward blocks have two layers"),
    _Demand("transformer-postprocess-emb", ("d", ""), "our embeddings have no norm of their own"),
    _Demand("transformer-train-position-embeddings", (False,), "our positions are sinusoidal"),
    _Demand("transformer-no-projection", (False,), "our attention has an output projection"),
    _Demand("transformer-no-bias", (False,), "our layers have biases"),
    _Demand("transformer-no-affine", (False,), "our layer norms have scale and bias"),
    _Demand("transformer-rnn-projection", (False,), _NO_SUCH_PART),
    _Demand("transformer-tied-layers", ([],), "our layers have weights of their own"),
    _Demand("transformer-pool", (False,), _NO_SUCH_PART),
    _Demand("output-omit-bias", (False,), "our output layer has a bias"),
    _Demand("lemma-dim-emb", (0,), _NO_SUCH_PART),
    _Demand("ulr", (False,), _NO_SUCH_PART),
    _Demand("right-left", (False,), "our models write from left to right"),
    _Demand(
        "input-types", ([], ["sequence", "sequence"]), "one source and one target are expected"
    ),
)
_OF_SSRU = (
    _Demand("dec-cell", ("ssru",), "no other recurrent cell is known"),
    _Demand("layer-normalization", (False,), "our cell has no norm of its own"),
)
# Preprocess, postprocess, and what follows a whole stack: d dropout, a residual sum, n norm.
_NORMS = {("", "dan", ""): "post", ("n", "da", "n"): "pre"}


def read_options(items: dict[str, np.ndarray], where: object) -> dict[str, Any]:
    """The options that a model was made with.

    Raises:
        UserError: there are none, or they are no YAML mapping.
    """
    text = items.get(OPTIONS_ITEM)
    if text is None:
        raise UserError(
            f"{where} has no {OPTIONS_ITEM}, so its shape is unknown; give a model as marian-train "
            "or marian-conv wrote it"
        )
    try:
        if text.size > _LONGEST_OPTIONS:
            raise ValueError(f"it has {text.size} bytes")
        options = yaml.safe_load(text.tobytes().rstrip(b"\0").decode())
        if not isinstance(options, dict):
            raise ValueError("no mapping")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{where}: {OPTIONS_ITEM} is not readable ({reason}); download the model again"
        ) from error
    return options


def model_section(options: dict[str, Any], where: object, max_length: int) -> dict[str, Any]:
    """The ``model`` section of our ``config.json``, all but what the vocabulary says.

    Raises:
        UserError: an option that our models do not have, by its name and with the reason.
    """
    recurrent = options.get("transformer-decoder-autoreg") == "rnn"
    for demand in (*_DEMANDS, *(_OF_SSRU if recurrent else ())):
        given = options.get(demand.option, demand.values[0])
        if given not in demand.values:
            raise _refused(where, demand.option, given, demand.reason)
    ffn = _size(options, where, "transformer-dim-ffn")
    decoder_ffn = options.get("transformer-decoder-dim-ffn", 0)
    if decoder_ffn not in (0, ffn):
        raise _refused(
            where, "transformer-decoder-dim-ffn", decoder_ffn, f"the encoder's width is {ffn}"
        )
    return {
        "kind": "recurrent" if recurrent else "transformer",
        **({"cell": "ssru"} if recurrent else {}),
        "d_model": _size(options, where, "dim-emb"),
        "heads": _size(options, where, "transformer-heads"),
        "ffn": ffn,
        "encoder_layers": _size(options, where, "enc-depth"),
        "decoder_layers": _size(options, where, "dec-depth"),
        "norm": _norm(options, where, recurrent),
        "activation": options.get("transformer-ffn-activation", "relu"),
        "positions": "tensor2tensor",
        "max_source_length": max_length,
        "max_target_length": max_length,
    }


def _norm(options: dict[str, Any], where: object, recurrent: bool) -> str:
    names = [f"transformer-{place}" for place in ("preprocess", "postprocess", "postprocess-top")]
    defaults = ("", "dan", "")
    given = [str(options.get(n, d)) for n, d in zip(names, defaults, strict=True)]
    norm = _NORMS.get((given[0], given[1], given[2]))
    if norm is None or (recurrent and norm == "pre"):
        shown = ", ".join(f"{name}: {value!r}" for name, value in zip(names, given, strict=True))
        known = "'', 'dan', ''" + ("" if recurrent else " or 'n', 'da', 'n'")
        raise UserError(f"{where} cannot be imported: it has {shown}; known are {known}")
    return norm


def _size(options: dict[str, Any], where: object, name: str) -> int:
    value = options.get(name)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise _refused(where, name, value, "a positive number is expected")
    return value


def _refused(where: object, option: str, given: Any, reason: str) -> UserError:
    return UserError(f"{where} cannot be imported: it has {option}: {given!r}, and {reason}")
