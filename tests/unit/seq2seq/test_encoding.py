"""Sources encoded in runs of similar length are encoded as they would be alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq import encoding
from seq2seq.batch import pad_sequences
from seq2seq.encoding import CALL_TOKENS, encode_sources, similar_runs
from tests.builders import sentences, tiny_model


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    call_tokens=st.sampled_from([0, 5, 40]),
)
def test_runs_change_nothing_but_the_padding(lengths: list[int], call_tokens: int) -> None:
    model, sources = tiny_model(1), sentences(2, lengths)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(encoding, "CALL_TOKENS", call_tokens)
        found = encode_sources(model, sources)
        assert found.lengths_B.tolist() == lengths
        assert found.states_BSD.shape == (len(lengths), max(lengths), 16)
        for row, source in enumerate(sources):
            alone = model.encode(*pad_sequences([source], 0)).states_BSD[0]
            torch.testing.assert_close(found.states_BSD[row, : len(source)], alone)


def test_padding_is_never_encoded_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(1)
    cells: list[int] = []
    encode = model.encode
    monkeypatch.setattr(
        model, "encode", lambda ids, lengths: cells.append(ids.numel()) or encode(ids, lengths)
    )
    sources = sentences(3, [2] * 100 + [48] * 3 + [2] * 100)
    with torch.inference_mode():
        encode_sources(model, sources)
    assert len(cells) == 2
    assert sum(cells) <= sum(map(len, sources)) + 2 * CALL_TOKENS


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_a_run_has_less_padding_than_another_call_costs(lengths: list[int]) -> None:
    ordered = sorted(lengths, reverse=True)
    runs = similar_runs(ordered)
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(lengths)))
    for run in runs:
        part = ordered[run]
        assert part and part[0] * len(part) - sum(part) <= CALL_TOKENS
