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
from seq2seq.layers import StackConfig
from seq2seq.recurrent import RecurrentConfig

TABLE, LOGIT_BIAS = "Wemb", "decoder_ff_logit_out_b"
# Ids that Marian's vocabulary does not have are never written: exp of this is 0 in float32, and it
# is a number in float16.
NEVER = -1e4
# How activations were quantised: what we compute with is not.
_IGNORED = "_QuantMultA"

_Named = tuple[str, np.ndarray]


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
        """Say that there is nothing else.

        Raises:
            UserError: there is: the model has a part that ours would not have.
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
    named = dict(_Mapping(source, config).all(pieces))
    source.finish()
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}


class _Mapping:
    """Our name of each parameter with its values; a part of a layer a method."""

    def __init__(self, items: _Items, config: StackConfig) -> None:
        self._items, self._config, self._d = items, config, config.d_model

    def all(self, pieces: int) -> Iterator[_Named]:
        items, config = self._items, self._config
        extra = config.vocab_size - pieces
        yield "embedding.weight", np.pad(items.take(TABLE, pieces, self._d), ((0, extra), (0, 0)))
        bias = items.row(LOGIT_BIAS, pieces)
        yield "logit_bias", np.pad(bias, (0, extra), constant_values=NEVER)
        for n in range(config.encoder_layers):
            yield from self._encoder_layer(f"encoder_layers.{n}", f"encoder_l{n + 1}")
        for n in range(config.decoder_layers):
            yield from self._decoder_layer(f"decoder_layers.{n}", f"decoder_l{n + 1}")
        if config.norm == "pre":
            for side in ("encoder", "decoder"):
                yield f"{side}_norm.weight", items.row(f"{side}_top_ln_scale", self._d)
                yield f"{side}_norm.bias", items.row(f"{side}_top_ln_bias", self._d)

    def _encoder_layer(self, ours: str, theirs: str) -> Iterator[_Named]:
        yield from self._own_attention(f"{ours}.attention", f"{theirs}_self")
        yield from self._norm(f"{ours}.attention_block", f"{theirs}_self_Wo")
        yield from self._feed_forward(ours, theirs)

    def _decoder_layer(self, ours: str, theirs: str) -> Iterator[_Named]:
        if isinstance(self._config, RecurrentConfig):
            yield from self._ssru(f"{ours}.cell", f"{theirs}_rnn")
            yield from self._norm(f"{ours}.self_block", f"{theirs}_rnn_ffn")
        else:
            yield from self._own_attention(f"{ours}.self_attention", f"{theirs}_self")
            yield from self._norm(f"{ours}.self_block", f"{theirs}_self_Wo")
        attention, context = f"{ours}.cross_attention", f"{theirs}_context"
        yield from self._linear(f"{attention}.query", context, "q")
        yield from self._linear(f"{attention}.packed", context, "kv")
        yield from self._linear(f"{attention}.out", context, "o")
        yield from self._norm(f"{ours}.cross_block", f"{context}_Wo")
        yield from self._feed_forward(ours, theirs)

    def _own_attention(self, ours: str, theirs: str) -> Iterator[_Named]:
        yield from self._linear(f"{ours}.packed", theirs, "qkv")
        yield from self._linear(f"{ours}.out", theirs, "o")

    def _linear(self, ours: str, theirs: str, parts: str) -> Iterator[_Named]:
        """Square projections of attention, one under the other."""
        weights = [self._items.matrix(f"{theirs}_W{part}", self._d, self._d) for part in parts]
        biases = [self._items.row(f"{theirs}_b{part}", self._d) for part in parts]
        yield f"{ours}.weight", np.concatenate(weights)
        yield f"{ours}.bias", np.concatenate(biases)

    def _ssru(self, ours: str, theirs: str) -> Iterator[_Named]:
        names = (f"{theirs}_W", f"{theirs}_Wf")
        weights = [self._items.matrix(name, self._d, self._d) for name in names]
        yield f"{ours}.packed.weight", np.concatenate(weights)
        yield f"{ours}.forget_bias", self._items.row(f"{theirs}_bf", self._d)

    def _feed_forward(self, ours: str, theirs: str) -> Iterator[_Named]:
        shapes = {"inner": (self._d, self._config.ffn), "outer": (self._config.ffn, self._d)}
        for number, (layer, shape) in enumerate(shapes.items(), 1):
            name = f"{ours}.feed_forward.{layer}"
            yield f"{name}.weight", self._items.matrix(f"{theirs}_ffn_W{number}", *shape)
            yield f"{name}.bias", self._items.row(f"{theirs}_ffn_b{number}", shape[1])
        yield from self._norm(f"{ours}.feed_forward_block", f"{theirs}_ffn_ffn")

    def _norm(self, ours: str, theirs: str) -> Iterator[_Named]:
        suffix = "_pre" if self._config.norm == "pre" else ""
        yield f"{ours}.norm.weight", self._items.row(f"{theirs}_ln_scale{suffix}", self._d)
        yield f"{ours}.norm.bias", self._items.row(f"{theirs}_ln_bias{suffix}", self._d)
