"""Pinned thread counts hold inside the block alone."""

from __future__ import annotations

import pytest
import torch

from seq2seq.threads import threads


def test_the_count_comes_back_even_after_a_fault() -> None:
    before = torch.get_num_threads()
    for count in (before + 1, before):
        with pytest.raises(KeyError), threads(count):
            assert torch.get_num_threads() == count
            raise KeyError
        assert torch.get_num_threads() == before


def test_blocks_nest() -> None:
    before = torch.get_num_threads()
    with threads(before + 2):
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
