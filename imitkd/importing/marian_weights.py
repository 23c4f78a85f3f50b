"""Marian's parameters under our names.

Marian multiplies from the right (``x W``, ``W [in, out]``), torch keeps ``[out, in]``; what we
multiply with at once (query, key and value; the two matrices of an SSRU) lies one under the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from imitkd.importing.marian_options import OPTIONS_ITEM
from seq2seq.errors import UserError
from seq2seq.transformer import StackConfig

TABLE, LOGIT_BIAS = "Wemb", "decoder_ff_logit_out_b"
# Ids that Marian's vocabulary does not have are never written: exp of this is 0 in float32, and it
# is a number in float16.
NEVER = -1e4
# How activations were quantised: what we compute with is not.
_IGNORED = "_QuantMultA"


class _Items:
    """Parameters taken by name, each of the shape it must have."""

    def __init__(self, items: dict[str, np.ndarray], where: object) -> None:
        self._items, self._where = items, where
        self._left = {n for n in items if n != OPTIONS_ITEM and not n.endswith(_IGNORED)}

    def take(self, name: str, *shape: int) -> np.ndarray:
        found = self._items.get(name)
        if found is None:
            raise UserError(
                f"{self._where} has no parameter {name}, which its options call for; download the "
                "model again"
            )
        if found.dtype != np.float32 or found.shape != shape:
            raise UserError(
                f"{self._where}: {name} is {found.dtype} {found.shape}, expected float32 {shape} "
                "by its options and vocabulary"
            )
        if not np.isfinite(found).all():
            raise UserError(
                f"{self._where}: {name} has values that are not finite; download it again"
            )
        self._left.discard(name)
        return found

    def matrix(self, name: str, rows: int, columns: int) -> np.ndarray:
        """A weight ``[in, out]`` as ``[out, in]``."""
        return self.take(name, rows, columns).T

    def row(self, name: str, width: int) -> np.ndarray:
        """A bias or scale, ``[1, width]``, as ``[width]``."""
        return self.take(name, 1, width)[0]

    def finish(self) -> None:
        """
        Raises:
            UserError: some were not taken: the model has a part that ours would not.
        """
        if self._left:
            names = sorted(self._left)
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(
                f"{self._where} cannot be imported: it has {len(names)} parameters of parts that "
                f"our models do not have ({shown})"
            )


def state_of(
    items: dict[str, np.ndarray], config: StackConfig, pieces: int, where: object
) -> dict[str, Tensor]:
    """Our state dict, float32.

    Args:
        pieces: ids of Marian's vocabulary. Those of ours behind them have rows of zeros: Marian's
            decoder begins with a vector of zeros, and what is padded is never read.

    Raises:
        UserError: a parameter is missing, has another shape than the options say, is not finite,
            or is one too many.
    """
    source = _Items(items, where)
    state = dict(_named(source, config, pieces))
    source.finish()
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}


def _named(items: _Items, config: StackConfig, pieces: int) -> Iterator[tuple[str, np.ndarray]]:
    extra = config.vocab_size - pieces
    yield (
        "embedding.weight",
        np.pad(items.take(TABLE, pieces, config.d_model), ((0, extra), (0, 0))),
    )
    bias = items.row(LOGIT_BIAS, pieces)
    yield "logit_bias", np.pad(bias, (0, extra), constant_values=NEVER)
    for n in range(config.encoder_layers):
        ours, theirs = f"encoder_layers.{n}", f"encoder_l{n + 1}"
        yield from _own(items, config, f"{ours}.attention", f"{theirs}_self")
        yield from _norm(items, config, f"{ours}.attention_block", f"{theirs}_self_Wo")
        yield from _feed_forward(items, config, ours, theirs)
    for n in range(config.decoder_layers):
        ours, theirs = f"decoder_layers.{n}", f"decoder_l{n + 1}"
        if getattr(config, "cell", None) == "ssru":
            yield from _ssru(items, config, f"{ours}.cell", f"{theirs}_rnn")
            yield from _norm(items, config, f"{ours}.self_block", f"{theirs}_rnn_ffn")
        else:
            yield from _own(items, config, f"{ours}.self_attention", f"{theirs}_self")
            yield from _norm(items, config, f"{ours}.self_block", f"{theirs}_self_Wo")
        yield from _cross(items, config, f"{ours}.cross_attention", f"{theirs}_context")
        yield from _norm(items, config, f"{ours}.cross_block", f"{theirs}_context_Wo")
        yield from _feed_forward(items, config, ours, theirs)
    if config.norm == "pre":
        for side in ("encoder", "decoder"):
            yield f"{side}_norm.weight", items.row(f"{side}_top_ln_scale", config.d_model)
            yield f"{side}_norm.bias", items.row(f"{side}_top_ln_bias", config.d_model)


def _linear(
    items: _Items, config: StackConfig, ours: str, theirs: str, parts: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Square projections of attention, one under the other."""
    d = config.d_model
    yield f"{ours}.weight", np.concatenate([items.matrix(f"{theirs}_W{p}", d, d) for p in parts])
    yield f"{ours}.bias", np.concatenate([items.row(f"{theirs}_b{p}", d) for p in parts])


def _own(
    items: _Items, config: StackConfig, ours: str, theirs: str
) -> Iterator[tuple[str, np.ndarray]]:
    yield from _linear(items, config, f"{ours}.packed", theirs, "qkv")
    yield from _linear(items, config, f"{ours}.out", theirs, "o")


def _cross(
    items: _Items, config: StackConfig, ours: str, theirs: str
) -> Iterator[tuple[str, np.ndarray]]:
    yield from _linear(items, config, f"{ours}.query", theirs, "q")
    yield from _linear(items, config, f"{ours}.packed", theirs, "kv")
    yield from _linear(items, config, f"{ours}.out", theirs, "o")


def _ssru(
    items: _Items, config: StackConfig, ours: str, theirs: str
) -> Iterator[tuple[str, np.ndarray]]:
    d = config.d_model
    matrices = [items.matrix(f"{theirs}_{name}", d, d) for name in ("W", "Wf")]
    yield f"{ours}.packed.weight", np.concatenate(matrices)
    yield f"{ours}.forget_bias", items.row(f"{theirs}_bf", d)


def _feed_forward(
    items: _Items, config: StackConfig, ours: str, theirs: str
) -> Iterator[tuple[str, np.ndarray]]:
    d, width = config.d_model, config.ffn
    for layer, number, shape in (("inner", 1, (d, width)), ("outer", 2, (width, d))):
        name = f"{ours}.feed_forward.{layer}"
        yield f"{name}.weight", items.matrix(f"{theirs}_ffn_W{number}", *shape)
        yield f"{name}.bias", items.row(f"{theirs}_ffn_b{number}", shape[1])
    yield from _norm(items, config, f"{ours}.feed_forward_block", f"{theirs}_ffn_ffn")


def _norm(
    items: _Items, config: StackConfig, ours: str, theirs: str
) -> Iterator[tuple[str, np.ndarray]]:
    suffix = "_pre" if config.norm == "pre" else ""
    yield f"{ours}.norm.weight", items.row(f"{theirs}_ln_scale{suffix}", config.d_model)
    yield f"{ours}.norm.bias", items.row(f"{theirs}_ln_bias{suffix}", config.d_model)
