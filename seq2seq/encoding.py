"""Encoding sources of very different lengths without paying for their padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seq2seq.batch import Ids, pad_sequences
from seq2seq.model import EncoderOutput, Seq2SeqModel

# What one more call of the encoder costs, in padded ids.
CALL_TOKENS = 128


def encode_sources(model: Seq2SeqModel, sources: Sequence[Ids]) -> EncoderOutput:
    """Run the encoder over ragged sources, neighbours of similar length together.

    Args:
        sources: at least one, in any order; cheapest where they are sorted by length.

    Returns:
        States padded to the longest source, rows in the order given; zeros at padding.
    """
    pad_id, device = model.config.pad_id, model.device
    lengths = np.array([len(source) for source in sources])
    order = np.argsort(-lengths, kind="stable")
    runs = [order[run] for run in similar_runs(lengths[order].tolist())]
    if len(runs) == 1:
        return model.encode(*pad_sequences(sources, pad_id, device))
    parts = [
        model.encode(*pad_sequences([sources[i] for i in rows], pad_id, device)) for rows in runs
    ]
    longest = parts[0].states_BSD
    states_BSD = longest.new_zeros(len(sources), *longest.shape[1:])
    for rows, part in zip(runs, parts, strict=True):
        index = torch.from_numpy(rows).to(device)
        states_BSD[index, : part.states_BSD.shape[1]] = part.states_BSD
    return EncoderOutput(states_BSD, torch.from_numpy(lengths).to(device))


def similar_runs(lengths: Sequence[int]) -> list[slice]:
    """Cut descending lengths into runs: a run ends where its padding would cost another call."""
    runs: list[slice] = []
    begin, padding = 0, 0
    for i, length in enumerate(lengths):
        padding += lengths[begin] - length
        if padding > CALL_TOKENS:
            runs.append(slice(begin, i))
            begin, padding = i, 0
    return [*runs, slice(begin, len(lengths))]
