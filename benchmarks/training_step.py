"""One training step against a plain PyTorch loop of the same model size on the same batches.

The peer is what a competent engineer writes: ``nn.Transformer`` (pre-norm, batch first), tied
embeddings, ``nn.CrossEntropyLoss``, clipping, fused AdamW. Batches have the lengths of Multi30k (UI
strings where it is not there), bucketed, 2,048 padded tokens, the same for both. Sides take turns;
ratios are medians of those within a turn. Ours drops no attention weights, ``nn.Transformer`` does;
the ratio is given against both. Peak memory is that of a fresh process for each side, above what it
holds before its first step.
"""

from __future__ import annotations

import ctypes
import functools
import gzip
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.form import Figure, Result, paired_ratio, run
from imitkd.demo import CORPUS, TEACHER
from imitkd.shipped import shipped
from seq2seq.batch import decoder_inputs, length_mask
from seq2seq.corpus import Example, read_split
from seq2seq.data import BatchPlan, TokenizedSplit
from seq2seq.model import build_model
from seq2seq.transformer import sinusoidal_positions
from seq2seq.vocabulary import load_vocabulary
from student_trainer.assembly import TrainingBatch, assemble
from student_trainer.config import LossConfig, Method, OptimiserConfig
from student_trainer.objective import backward
from student_trainer.optimiser import make_optimiser
from student_trainer.types import Ragged, ScoredShard, TeacherLabels

MULTI30K = Path("../shared/data/multi30k")
SHAPE: dict[str, Any] = {
    "kind": "transformer",
    "d_model": 256,
    "heads": 4,
    "ffn": 1024,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "norm": "pre",
    "dropout": 0.1,
}
CANDIDATES = 64
BATCH_TOKENS = 2048


def measure(quick: bool) -> Result:
    """Times of a vanilla step, of a step on the teacher's distributions, and of the peer's."""
    torch.set_num_threads(2)
    count = 4 if quick else 12
    plain, labelled, origin, vocabulary_size = _batches(count)
    sides: dict[str, Callable[[int], float]] = {
        "vanilla": _Ours(vocabulary_size, plain, "vanilla"),
        "imitkd_full": _Ours(vocabulary_size, labelled, "imitkd-full"),
        "peer": _Peer(vocabulary_size, plain),
        "peer_without_attention_dropout": _Peer(vocabulary_size, plain, attention_dropout=False),
    }
    for side in sides.values():
        side(0)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count):
        for name, side in sides.items():
            begin = time.perf_counter()
            side(number)
            times[name].append(time.perf_counter() - begin)
    positions = [batch.positions for batch in plain]
    memory = {name: _peak_mb(name) for name in ("vanilla", "imitkd_full", "peer")}
    return Result(
        {
            "step_over_peer": Figure(
                paired_ratio(times["peer"], times["vanilla"]), "ratio", ">= 1.5"
            ),
            "step_over_peer_without_attention_dropout": Figure(
                paired_ratio(times["peer_without_attention_dropout"], times["vanilla"]), "ratio"
            ),
            "kd_step_over_vanilla_step": Figure(
                paired_ratio(times["imitkd_full"], times["vanilla"]), "ratio", "<= 1.15"
            ),
            "target_tokens_per_s": Figure(sum(positions) / sum(times["vanilla"]), "tokens/s"),
            "peak_mb": Figure(memory["vanilla"], "MB"),
            "peak_mb_imitkd_full": Figure(memory["imitkd_full"], "MB"),
            "peak_mb_peer": Figure(memory["peer"], "MB"),
        },
        {
            "seconds": times,
            "text": origin,
            "target_positions": positions,
            "padding_share": 1 - sum(positions) / sum(b.target_BT.numel() for b in plain),
            "model": SHAPE | {"vocab_size": vocabulary_size},
            "torch": torch.__version__,
        },
    )


def _examples() -> tuple[list[Example], str]:
    if MULTI30K.is_dir():
        sides = [
            gzip.decompress((MULTI30K / f"train.{language}.gz").read_bytes()).decode().splitlines()
            for language in ("en", "de")
        ]
        return [Example(s, (t,)) for s, t in zip(*sides, strict=True)][:6000], "Multi30k, train"
    return read_split(Path("data") / CORPUS, "train")[:6000], f"{CORPUS}, train"


@functools.cache
def _batches(count: int) -> tuple[list[TrainingBatch], list[TrainingBatch], str, int]:
    """The same batches without labels and with random ones of ``CANDIDATES`` ids."""
    vocabulary = load_vocabulary(shipped(TEACHER) / "tokenizer")
    examples, origin = _examples()
    split = TokenizedSplit(examples, vocabulary, max_source_length=256, max_target_length=256)
    lengths = np.maximum(split.source_lengths, split.target_lengths)
    plan = BatchPlan(lengths, seed=1, tokens=BATCH_TOKENS)
    generator = torch.Generator().manual_seed(1)
    plain, labelled = [], []
    for number in range(count):
        rows = plan.rows(number)
        targets = Ragged.of([split.target(r).astype(np.int32) for r in rows])
        logits = 3 * torch.randn(len(targets.ids_P), vocabulary.size, generator=generator)
        top, ids = logits.log_softmax(1).topk(CANDIDATES, dim=1)
        labels = TeacherLabels(
            np.arange(len(ids)),
            ids.int().numpy(),
            top.numpy(),
            torch.log1p(-top.exp().sum(1).clamp(max=1 - 1e-6)).numpy(),
        )
        for into, held in ((plain, None), (labelled, labels)):
            shard = ScoredShard(
                batch=number,
                shard=0,
                version=0,
                beta=1.0,
                sources=Ragged.of([split.source(r).astype(np.int32) for r in rows]),
                targets=targets,
                from_student=np.zeros(len(rows), dtype=bool),
                labels=held,
            )
            into.append(assemble([shard], vocabulary.pad_id, "cpu"))
    return plain, labelled, origin, vocabulary.size


class _Ours:
    """Our model, objective and optimiser."""

    def __init__(self, size: int, batches: list[TrainingBatch], method: Method) -> None:
        torch.manual_seed(1)
        self._model = build_model(SHAPE | {"vocab_size": size})
        self._optimiser = make_optimiser(self._model, OptimiserConfig(steps=100))
        self._batches, self._method = batches, method
        self._loss = LossConfig()
        self._steps = 0

    def __call__(self, number: int) -> float:
        self._steps += 1
        self._model.train()
        self._model.dropout_source.begin_step(1, self._steps)
        self._optimiser.zero_grad(set_to_none=True)
        loss = backward(self._model, self._batches[number], self._method, self._loss)
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        return loss


class _PeerModel(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        width = SHAPE["d_model"]
        self.embedding = nn.Embedding(size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.transformer = nn.Transformer(
            width,
            SHAPE["heads"],
            SHAPE["encoder_layers"],
            SHAPE["decoder_layers"],
            SHAPE["ffn"],
            SHAPE["dropout"],
            batch_first=True,
            norm_first=True,
        )
        self.dropout = nn.Dropout(SHAPE["dropout"])
        self.scale = math.sqrt(width)
        self.register_buffer("positions", sinusoidal_positions(257, width))

    def embed(self, ids: Tensor) -> Tensor:
        positions: Any = self.positions
        return self.dropout(self.embedding(ids) * self.scale + positions[: ids.shape[1]])

    def forward(self, source: Tensor, source_padding: Tensor, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.transformer(
            self.embed(source),
            self.embed(inputs),
            tgt_mask=causal,
            src_key_padding_mask=source_padding,
            memory_key_padding_mask=source_padding,
            tgt_is_causal=True,
        )
        return nn.functional.linear(hidden, self.embedding.weight, self.bias)


class _Peer:
    """The plain loop."""

    def __init__(
        self, size: int, batches: list[TrainingBatch], attention_dropout: bool = True
    ) -> None:
        torch.manual_seed(1)
        self._model = _PeerModel(size).train()
        if not attention_dropout:
            for module in self._model.modules():
                if isinstance(module, nn.MultiheadAttention):
                    module.dropout = 0.0
        self._criterion = nn.CrossEntropyLoss(ignore_index=0)
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=1e-3, fused=True)
        self._batches = batches

    def __call__(self, number: int) -> float:
        batch = self._batches[number]
        padding = ~length_mask(batch.source_lengths_B, batch.source_BS.shape[1])
        self._optimiser.zero_grad(set_to_none=True)
        logits = self._model(batch.source_BS, padding, decoder_inputs(batch.target_BT, 3))
        loss = self._criterion(logits.flatten(0, 1), batch.target_BT.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        return float(loss)


def _peak_mb(side: str) -> float:
    """Growth of a fresh process's peak resident memory over three steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grow, (side,))


def _grow(side: str) -> float:
    torch.set_num_threads(2)
    plain, labelled, _, size = _batches(3)
    step: Callable[[int], float]
    if side == "peer":
        step = _Peer(size, plain)
    elif side == "vanilla":
        step = _Ours(size, plain, "vanilla")
    else:
        step = _Ours(size, labelled, "imitkd-full")
    # What was needed to make the batches does not count (Linux, glibc).
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    for number in range(3):
        step(number)
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(x.split()[1]) / 1024 for x in lines if x.startswith(key))


if __name__ == "__main__":
    run("training_step", measure)
