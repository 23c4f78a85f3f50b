"""onnxruntime on a CPU, greedy. Nothing here imports torch: numpy is all that a step needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from imitkd.engines.engine import Engine, target_limits
from imitkd.engines.manifest import Manifest
from seq2seq.errors import UserError

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
# Sentences computed side by side, and finished ones that are put up with among them.
_BATCH, _IDLE_SHARE = 32, 0.25
Arrays = dict[str, np.ndarray]


class OnnxEngine(Engine):
    """Encoder and decoder step of :mod:`seq2seq.onnx_form`."""

    def __init__(self, path: Path, manifest: Manifest, threads: int | None = None) -> None:
        """Load both models.

        Raises:
            UserError: onnxruntime is not installed or cannot read a model, or the tokenizer is not
                the one that was exported.
        """
        self.vocabulary = manifest.vocabulary(path)
        self.longest_source = manifest.max_source_length
        self._manifest, self._threads = manifest, threads or os.cpu_count() or 1
        self._encoder = _session(path / ENCODER_FILE)
        self._decoder = _session(path / DECODER_FILE)
        self._memory_names = [output.name for output in self._encoder.get_outputs()]
        inputs = self._decoder.get_inputs()
        self._states = {i.name: i.shape for i in inputs if i.name.startswith("state.")}

    def write(self, sources: Sequence[list[int]], beam: int = 1) -> list[list[int]]:
        """See :class:`~imitkd.engines.engine.Engine`."""
        if beam > 1:
            raise UserError(
                "an ONNX export is decoded greedily here; for beams translate with the CTranslate2 "
                "export or the model directory"
            )
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        found: list[list[int]] = [[] for _ in sources]

        def write(rows: list[int]) -> None:
            for i, ids in zip(rows, self._batch([sources[i] for i in rows]), strict=True):
                found[i] = ids

        batches = [order[begin : begin + _BATCH] for begin in range(0, len(order), _BATCH)]
        with ThreadPoolExecutor(self._threads) as side_by_side:
            for _ in side_by_side.map(write, batches):
                pass
        return found

    def _batch(self, sources: list[list[int]]) -> list[list[int]]:
        manifest = self._manifest
        limits = target_limits(sources, manifest.limit, manifest.max_target_length)
        held = self._start(sources)
        tokens = np.full(len(sources), manifest.start_id, dtype=np.int64)
        rows, written = np.arange(len(sources)), [list[int]() for _ in sources]
        going = np.ones(len(sources), dtype=bool)
        for position in range(max(limits)):
            feed = held | {"tokens": tokens, "position": np.array([position])}
            logits, *after = self._decoder.run(None, feed)
            held |= dict(zip(self._states, after, strict=True))
            logits[:, manifest.suppressed] = -np.inf
            tokens = logits.argmax(1)
            for n in going.nonzero()[0]:
                written[rows[n]].append(int(tokens[n]))
                ended = tokens[n] == manifest.eos_id or position + 1 == limits[rows[n]]
                going[n] = not ended
            if not going.any():
                break
            if len(going) - going.sum() >= _IDLE_SHARE * len(going):
                held = {name: array[going] for name, array in held.items()}
                tokens, rows, going = tokens[going], rows[going], going[going]
        return written

    def _start(self, sources: list[list[int]]) -> Arrays:
        """What the decoder attends to, and states in which nothing has been read."""
        lengths = np.array([len(source) for source in sources])
        ids = np.full((len(sources), lengths.max()), self._manifest.pad_id, dtype=np.int64)
        for row, source in zip(ids, sources, strict=True):
            row[: len(source)] = source
        memory = self._encoder.run(None, {"source": ids, "lengths": lengths})
        held: Arrays = dict(zip(self._memory_names, memory, strict=True))
        for name, shape in self._states.items():
            # A size with a name is the number of rows, which comes first, or of what was read.
            sizes = [len(sources), *(0 if isinstance(s, str) else s for s in shape[1:])]
            held[name] = np.zeros(sizes, dtype=np.float32)
        return held


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{file} runs on onnxruntime, which is not installed; pip install 'imitkd[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    # Threads take a batch each: the products are too small to be worth sharing one.
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package has a class of its own for every fault
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"onnxruntime cannot read {file} ({reason}); export again") from error
