"""Work on real positions alone gives what work on the padded batch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seq2seq.batch import decoder_inputs, length_mask, packed_index, pad_sequences
from seq2seq.ensemble import Ensemble
from seq2seq.model import EncoderOutput, Seq2SeqModel
from seq2seq.packing import PADDED, Packed, packing
from tests.builders import RECURRENT, sentences, tiny_model

SOURCES = sentences(1, [9, 1, 4, 9, 2])
TARGETS = sentences(2, [1, 7, 0, 12, 3], end=False)


MODELS = {
    "pre": lambda: tiny_model(4),
    "post": lambda: tiny_model(4, norm="post"),
    "recurrent": lambda: tiny_model(4, kind="recurrent"),
    **{name: lambda shape=shape: tiny_model(4, **shape) for name, shape in RECURRENT.items()},
    "ensemble": lambda: Ensemble([tiny_model(4), tiny_model(5, d_model=8)]).eval(),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Seq2SeqModel:
    return MODELS[request.param]()


def padded_states(model: Seq2SeqModel, source_BS: Any, lengths_B: Any) -> EncoderOutput:
    """With gradients enabled nothing is packed."""
    found = model.encode(source_BS, lengths_B)
    return EncoderOutput(found.states_BSD.detach(), lengths_B)


def test_states_of_real_positions_are_those_of_the_padded_batch(model):
    source_BS, lengths_B = pad_sequences(SOURCES, 0)
    expected = padded_states(model, source_BS, lengths_B).states_BSD
    with torch.inference_mode():
        found = model.encode(source_BS, lengths_B).states_BSD
    assert found.shape == expected.shape
    mask = length_mask(lengths_B, source_BS.shape[1])
    torch.testing.assert_close(found[mask], expected[mask], atol=2e-6, rtol=2e-6)


def test_hidden_states_of_real_positions_are_those_of_the_padded_batch(model):
    encoded = padded_states(model, *pad_sequences(SOURCES, 0))
    targets_BT, lengths_B = pad_sequences(TARGETS, 0)
    inputs_BT = decoder_inputs(targets_BT, 3)
    expected = model.decode(encoded, inputs_BT).detach()
    # Real positions depend neither on what stands in for padding nor on states past a source's end.
    encoded.states_BSD[~length_mask(encoded.lengths_B, 9)] = 1e3
    inputs_BT[~length_mask(lengths_B, 12)] = 7
    with torch.inference_mode():
        found = model.decode_real(encoded, inputs_BT, lengths_B)
    index_P = packed_index(lengths_B, 12)
    torch.testing.assert_close(found, expected.flatten(0, 1)[index_P], atol=5e-6, rtol=5e-6)


def test_padding_costs_no_products(monkeypatch):
    model = tiny_model(4)
    rows: list[int] = []
    linear = torch.nn.Linear.forward

    def spy(self: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(x.numel() // x.shape[-1])
        return linear(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", spy)
    targets_BT, lengths_B = pad_sequences(TARGETS, 0)
    with torch.inference_mode():
        encoded = model.encode(*pad_sequences(SOURCES, 0))
        assert set(rows) == {sum(map(len, SOURCES))}
        rows.clear()
        model.decode_real(encoded, decoder_inputs(targets_BT, 3), lengths_B)
    assert set(rows) == {sum(map(len, SOURCES)), sum(map(len, TARGETS))}


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0, 0, 1], [3, 3], [1]])
def test_laid_out_rows_come_back_and_padding_is_finite(lengths):
    layout = Packed(torch.tensor(lengths), 3)
    x_PD = torch.randn(sum(lengths), 2)
    laid_out = layout.lay_out(x_PD)
    assert laid_out.shape == (len(lengths), 3, 2)
    assert laid_out.isfinite().all()
    assert torch.equal(layout.pack(laid_out), x_PD)
    assert torch.equal(laid_out[-1, : lengths[-1]], x_PD[-lengths[-1] :])


def test_nothing_is_packed_for_training_or_where_nothing_is_padding():
    ragged, full = torch.tensor([2, 3]), torch.tensor([3, 3])
    assert packing(ragged, 3, training=False) is PADDED  # gradients are enabled
    with torch.no_grad():
        assert packing(ragged, 3, training=True) is PADDED
        assert packing(full, 3, training=False) is PADDED
        assert isinstance(packing(ragged, 3, training=False), Packed)
