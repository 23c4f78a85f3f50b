"""Tiny Marian models: random weights, files as Marian writes them, and its mathematics in plain
loops."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import yaml

from tests.builders import tiny_text

Items = dict[str, np.ndarray]

TINY: dict[str, Any] = {
    "type": "transformer",
    "dim-emb": 8,
    "dim-vocabs": [48, 48],
    "enc-depth": 2,
    "dec-depth": 2,
    "transformer-heads": 2,
    "transformer-dim-ffn": 12,
    "transformer-decoder-autoreg": "self-attention",
    "transformer-ffn-activation": "relu",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-postprocess-top": "",
    "transformer-postprocess-emb": "d",
    "tied-embeddings-all": True,
    "version": "v1.9.0 of a test",
}
SSRU = {"transformer-decoder-autoreg": "rnn", "dec-cell": "ssru"}
SWISH = {"transformer-ffn-activation": "swish"}
PRE_NORM = {
    "transformer-preprocess": "n",
    "transformer-postprocess": "da",
    "transformer-postprocess-top": "n",
}


def random_items(options: Mapping[str, Any], pieces: int, seed: int = 0) -> Items:
    """Float32 parameters under Marian's names, in Marian's shapes; every one of them matters."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.5 + ("ln_scale" in name)).astype(np.float32)
        for name, shape in _shapes(options, pieces)
    }


def _shapes(options: Mapping[str, Any], pieces: int) -> Iterable[tuple[str, tuple[int, int]]]:
    d, ffn = options["dim-emb"], options["transformer-dim-ffn"]
    pre = options["transformer-preprocess"] == "n"
    suffix = "_pre" if pre else ""
    yield "Wemb", (pieces, d)
    yield "decoder_ff_logit_out_b", (1, pieces)

    def norm(name: str, end: str = suffix) -> Iterable[tuple[str, tuple[int, int]]]:
        yield f"{name}_ln_scale{end}", (1, d)
        yield f"{name}_ln_bias{end}", (1, d)

    def attention(name: str) -> Iterable[tuple[str, tuple[int, int]]]:
        for part in "qkvo":
            yield f"{name}_W{part}", (d, d)
            yield f"{name}_b{part}", (1, d)
        yield from norm(f"{name}_Wo")

    for side, depth in (("encoder", options["enc-depth"]), ("decoder", options["dec-depth"])):
        for n in range(1, depth + 1):
            layer = f"{side}_l{n}"
            if side == "decoder" and options["transformer-decoder-autoreg"] == "rnn":
                yield f"{layer}_rnn_W", (d, d)
                yield f"{layer}_rnn_Wf", (d, d)
                yield f"{layer}_rnn_bf", (1, d)
                yield from norm(f"{layer}_rnn_ffn")
            else:
                yield from attention(f"{layer}_self")
            if side == "decoder":
                yield from attention(f"{layer}_context")
            yield f"{layer}_ffn_W1", (d, ffn)
            yield f"{layer}_ffn_b1", (1, ffn)
            yield f"{layer}_ffn_W2", (ffn, d)
            yield f"{layer}_ffn_b2", (1, d)
            yield from norm(f"{layer}_ffn_ffn")
        if pre:
            yield from norm(f"{side}_top", "")


# ---------------------------------------------------------------------------------------------
# files


def options_item(options: Mapping[str, Any]) -> np.ndarray:
    """``special:model.yml``: text with a zero byte behind it."""
    return np.frombuffer(yaml.safe_dump(dict(options)).encode() + b"\0", np.int8)


def write_npz(path: Path, items: Items, options: Mapping[str, Any]) -> Path:
    np.savez(path, **items, **{"special:model.yml": options_item(options)})
    return path


def is_quantised(name: str, array: np.ndarray) -> bool:
    """Whether an int8 model has this parameter as int8: all matrices are, rows are not."""
    return array.ndim == 2 and len(array) > 1


def quantised(items: Items) -> tuple[Items, dict[str, float]]:
    """int8 matrices with the factor each was multiplied by; the others as they are."""
    factors = {n: 127.0 / float(np.abs(a).max()) for n, a in items.items() if is_quantised(n, a)}
    found = dict(items)
    for name, factor in factors.items():
        found[name] = np.clip(np.rint(items[name] * np.float32(factor)), -127, 127).astype(np.int8)
    return found, factors


def dequantised(items: Items) -> Items:
    """What an int8 file says the parameters are."""
    found, factors = quantised(items)
    return {
        n: a.astype(np.float32) / np.float32(factors[n]) if n in factors else a
        for n, a in found.items()
    }


def binary(items: Items, options: Mapping[str, Any], *, int8: bool) -> bytes:
    """The bytes of a ``.bin``: float32, or int8 as ``marian-conv --gemm-type intgemm8`` writes
    it."""
    arrays, factors = quantised(items) if int8 else (items, {})
    records: list[tuple[str, int, tuple[int, ...], bytes]] = []
    for name, array in sorted(arrays.items()):
        if name in factors:
            laid_out = array if name == "Wemb" else array.T
            data = laid_out.tobytes() + struct.pack("<f", factors[name])
            records.append((name, 0x4101, array.shape, data))
            alpha = struct.pack("<f", 1.5)
            records.append((f"{name}_QuantMultA", 0x0404, (1, 1), alpha))
        else:
            records.append((name, 0x0404, array.shape, array.astype("<f4").tobytes()))
    text = options_item(options).tobytes()
    records.append(("special:model.yml", 0x0101, (len(text),), text))
    padded = [data + bytes(-len(data) % 256) for *_, data in records]
    out = struct.pack("<2Q", 1, len(records))
    for (name, kind, shape, _), data in zip(records, padded, strict=True):
        out += struct.pack("<4Q", len(name) + 1, kind, len(shape), len(data))
    out += b"".join(name.encode() + b"\0" for name, *_ in records)
    out += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in records)
    gap = -(len(out) + 8) % 256
    return out + struct.pack("<Q", gap) + bytes(gap) + b"".join(padded)


@cache
def sentencepiece_model(size: int) -> bytes:
    """A vocabulary as Marian trains one: end 0, unknown 1, neither padding nor start."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_text()),
        model_writer=out,
        vocab_size=size,
        eos_id=0,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def table_of(model: bytes) -> dict[str, int]:
    """Its pieces in another order, as a table that was made from a corpus has them."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]
    return {piece: n for n, piece in enumerate([*pieces[:2], *reversed(pieces[2:])])}


# ---------------------------------------------------------------------------------------------
# mathematics


class NaiveMarian:
    """A Transformer, or one with an SSRU decoder, as Marian computes it: a position at a time."""

    def __init__(self, items: Items, options: Mapping[str, Any]) -> None:
        self.w = {name: array.astype(np.float64) for name, array in items.items()}
        self.o = options

    def logits(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """``[T + 1, V]``: row t is what is said of target t, having read those before it.

        There is no start symbol: the first thing read is a vector of zeros.
        """
        table = self.w["Wemb"]
        memory = self._stack("encoder", [table[i] for i in source], None)
        read = [np.zeros(self.o["dim-emb"]), *(table[i] for i in target)]
        hidden = self._stack("decoder", read, memory)
        return np.stack([table @ h + self.w["decoder_ff_logit_out_b"][0] for h in hidden])

    def _stack(self, side: str, words: list[np.ndarray], memory: Any) -> list[np.ndarray]:
        d = self.o["dim-emb"]
        x = [word * math.sqrt(d) + position(t, d) for t, word in enumerate(words)]
        for n in range(1, self.o[f"{side[:3]}-depth"] + 1):
            layer = f"{side}_l{n}"
            if side == "decoder" and self.o["transformer-decoder-autoreg"] == "rnn":
                x = self._block(x, f"{layer}_rnn_ffn", lambda y, p=layer: self._ssru(y, f"{p}_rnn"))
            else:
                causal = side == "decoder"
                x = self._block(
                    x,
                    f"{layer}_self_Wo",
                    lambda y, p=layer, c=causal: self._attend(y, y, f"{p}_self", c),
                )
            if side == "decoder":
                x = self._block(
                    x,
                    f"{layer}_context_Wo",
                    lambda y, p=layer: self._attend(y, memory, f"{p}_context", False),
                )
            x = self._block(x, f"{layer}_ffn_ffn", lambda y, p=layer: self._ffn(y, f"{p}_ffn"))
        if self.o["transformer-postprocess-top"] == "n":
            x = [self._norm(v, f"{side}_top", "") for v in x]
        return x

    def _block(self, x: list[np.ndarray], norm: str, change: Any) -> list[np.ndarray]:
        if self.o["transformer-preprocess"] == "n":
            return [
                a + b
                for a, b in zip(x, change([self._norm(v, norm, "_pre") for v in x]), strict=True)
            ]
        return [self._norm(a + b, norm, "") for a, b in zip(x, change(x), strict=True)]

    def _norm(self, v: np.ndarray, name: str, suffix: str) -> np.ndarray:
        scale, bias = self.w[f"{name}_ln_scale{suffix}"][0], self.w[f"{name}_ln_bias{suffix}"][0]
        return (v - v.mean()) / math.sqrt(v.var() + 1e-6) * scale + bias

    def _affine(self, v: np.ndarray, name: str, part: str) -> np.ndarray:
        return v @ self.w[f"{name}_W{part}"] + self.w[f"{name}_b{part}"][0]

    def _attend(
        self, x: list[np.ndarray], memory: list[np.ndarray], name: str, causal: bool
    ) -> list[np.ndarray]:
        heads = self.o["transformer-heads"]
        width = self.o["dim-emb"] // heads
        keys = [self._affine(m, name, "k") for m in memory]
        values = [self._affine(m, name, "v") for m in memory]
        found = []
        for t, v in enumerate(x):
            query, joined = self._affine(v, name, "q"), []
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                seen = range(t + 1 if causal else len(memory))
                scores = np.array([query[part] @ keys[s][part] / math.sqrt(width) for s in seen])
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                joined.append(sum(a * values[s][part] for a, s in zip(shares, seen, strict=True)))
            found.append(self._affine(np.concatenate(joined), name, "o"))
        return found

    def _ffn(self, x: list[np.ndarray], name: str) -> list[np.ndarray]:
        found = []
        for v in x:
            inner = self._affine(v, name, "1")
            if self.o["transformer-ffn-activation"] == "swish":
                inner = inner / (1 + np.exp(-inner))
            else:
                inner = np.maximum(0, inner)
            found.append(self._affine(inner, name, "2"))
        return found

    def _ssru(self, x: list[np.ndarray], name: str) -> list[np.ndarray]:
        cell, found = np.zeros(self.o["dim-emb"]), []
        for v in x:
            forget = 1 / (1 + np.exp(-self._affine(v, name, "f")))
            cell = forget * cell + (1 - forget) * (v @ self.w[f"{name}_W"])
            found.append(np.maximum(0, cell))
        return found


def position(t: int, d: int) -> np.ndarray:
    """Sines in the first half, cosines in the second; the slowest turns by 1 / 10000 a position."""
    angles = [t / 10000 ** (i / (d // 2 - 1)) for i in range(d // 2)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
