"""Encoder states of sources seen before: a source returns every epoch, and with several targets.

Letters: B sequences, S source length, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seq2seq.batch import pad_sequences
from seq2seq.model import EncoderOutput, Seq2SeqModel
from teacher_service.caches import ByteCache


class CachedEncoder:
    """The encoder of a model, run on what is not kept; used by one thread at a time.

    States are kept unpadded on the model's device, so what a batch's longest source is changes
    neither their size nor, beyond rounding, their value.

    Args:
        budget: bytes of states kept; 0 runs the encoder on every source of every batch.
    """

    def __init__(self, model: Seq2SeqModel, budget: int) -> None:
        self._model = model
        self.cache: ByteCache[bytes, Tensor] = ByteCache(budget)

    def encode(self, sources: Sequence[Sequence[int]]) -> EncoderOutput:
        """Like the model's own ``encode`` of these sources padded; at least one."""
        if not self.cache.budget:
            return self._run(sources)
        keys = [np.asarray(source, np.uint32).tobytes() for source in sources]
        found: dict[bytes, Tensor] = {}
        absent: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in absent:
                states_SD = self.cache.get(key)
                if states_SD is None:
                    absent[key] = row
                else:
                    found[key] = states_SD
        if absent:
            fresh = self._run([sources[row] for row in absent.values()])
            for key, row, states_SD in zip(absent, absent.values(), fresh.states_BSD, strict=True):
                found[key] = states_SD[: len(sources[row])].clone()
                self.cache.put(key, found[key], found[key].nbytes)
            if len(absent) == len(sources):
                return fresh
        lengths_B = torch.tensor([len(source) for source in sources], device=self._model.device)
        states_BSD = pad_sequence([found[key] for key in keys], batch_first=True)
        return EncoderOutput(states_BSD, lengths_B)

    def _run(self, sources: Sequence[Sequence[int]]) -> EncoderOutput:
        config = self._model.config
        return self._model.encode(*pad_sequences(sources, config.pad_id, self._model.device))
