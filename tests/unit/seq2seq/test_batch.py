"""Padding, masks, the shift of targets and the packed index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.batch import decoder_inputs, length_mask, packed_index, pad_sequences

ragged = st.lists(st.lists(st.integers(4, 900), max_size=9), min_size=1, max_size=6)


def test_no_sequences_and_empty_sequences_have_a_column() -> None:
    ids, lengths = pad_sequences([], 0)
    assert ids.shape == (0, 1) and lengths.shape == (0,)
    ids, lengths = pad_sequences([[], []], 7)
    assert ids.tolist() == [[7], [7]] and lengths.tolist() == [0, 0]


def test_pads_at_the_end_with_the_given_id() -> None:
    ids, lengths = pad_sequences([[5, 6, 7], [8]], 2)
    assert ids.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert lengths.tolist() == [3, 1]
    assert ids.dtype == lengths.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_arrays_of_any_integer_type(dtype: type) -> None:
    ids, _ = pad_sequences([np.array([60000, 2], dtype=np.int64).astype(dtype)], 0)
    assert ids.tolist() == [[60000, 2]]


@settings(max_examples=50, deadline=None)
@given(ragged)
def test_padding_loses_nothing(sequences: list[list[int]]) -> None:
    ids, lengths = pad_sequences(sequences, 0)
    assert [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)] == sequences
    assert ids.shape[1] == max(1, *map(len, sequences))
    assert int(ids.sum()) == sum(map(sum, sequences))


def test_length_mask() -> None:
    mask = length_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]


def test_decoder_inputs_shift_by_one() -> None:
    targets = torch.tensor([[5, 6, 1], [7, 1, 0]])
    assert decoder_inputs(targets, 3).tolist() == [[3, 5, 6], [3, 7, 1]]
    assert decoder_inputs(torch.tensor([[9]]), 3).tolist() == [[3]]
    assert targets.tolist() == [[5, 6, 1], [7, 1, 0]]


@settings(max_examples=50, deadline=None)
@given(ragged)
def test_packed_index_lists_the_real_positions_row_by_row(sequences: list[list[int]]) -> None:
    ids, lengths = pad_sequences(sequences, 0)
    index = packed_index(lengths, ids.shape[1])
    assert ids.flatten()[index].tolist() == [i for s in sequences for i in s]
