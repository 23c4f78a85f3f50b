"""Models written as ONNX compute, step by step, what they compute here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from seq2seq.batch import pad_sequences
from seq2seq.cells import Cell
from seq2seq.recurrent import Recurrent, RecurrentConfig
from tests.builders import STACKED, sentences, tiny_model

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from seq2seq import onnx_form  # noqa: E402

V = 31
SHAPES: dict[str, dict[str, Any]] = {
    "transformer": {"norm": "pre", "decoder_layers": 1},
}
SHAPES["recurrent-encoder"] = {
    "kind": "recurrent",
    "cell": "gru",
    "encoder": "recurrent",
    "positions": "none",
    "ffn": 0,
    "decoder_layers": 2,
}
# Every cell there is.
for cell in get_args(RecurrentConfig.model_fields["cell"].annotation):
    SHAPES[cell] = {
        "kind": "recurrent",
        "cell": cell,
        "norm": "post",
        "positions": "tensor2tensor",
        "decoder_layers": 2,
    }
SHAPES |= STACKED


@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_gives_the_logits_of_the_whole_prefix(shape: str, tmp_path: Path) -> None:
    """With other numbers of rows and ids than the model was traced with, a single row included."""
    model = tiny_model(3, vocab_size=V, spread=0.5, **SHAPES[shape])
    files = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    onnx_form.save(model, *files)
    encoder, decoder = (ort.InferenceSession(str(file)) for file in files)
    states = [i for i in decoder.get_inputs() if i.name.startswith("state.")]
    assert len(states) == (2 if shape == "transformer" else len(model.decoder_layers))
    for lengths in ([5, 2, 9, 1, 7], [4]):
        source, real = pad_sequences(sentences(3, lengths, V), 0)
        inputs = torch.randint(4, V, (len(lengths), 6), generator=torch.Generator().manual_seed(1))
        inputs[:, 0] = 3
        with torch.no_grad():
            expected = model(source, real, inputs)
        feed = {"source": source.numpy(), "lengths": real.numpy()}
        names = [output.name for output in encoder.get_outputs()]
        held = dict(zip(names, encoder.run(None, feed), strict=True))
        for state in states:
            sizes = [0 if isinstance(size, str) else size for size in state.shape[1:]]
            held[state.name] = np.zeros([len(lengths), *sizes], dtype=np.float32)
        for position, tokens in enumerate(inputs.t()):
            now = {"tokens": tokens.numpy(), "position": np.array([position])}
            logits, *after = decoder.run(None, held | now)
            held |= dict(zip([state.name for state in states], after, strict=True))
            torch.testing.assert_close(
                torch.from_numpy(logits), expected[:, position], atol=1e-4, rtol=1e-4
            )


def test_a_model_still_learns_after_it_was_written(tmp_path: Path) -> None:
    model = tiny_model(3, vocab_size=V, decoder_layers=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    onnx_form.save(model, tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_looped_cell_reads_texts_of_any_length() -> None:
    """What an encoder of cells is written with; a trace alone would keep the length it saw."""
    model = tiny_model(3, vocab_size=V, kind="recurrent", cell="ssru")
    assert isinstance(model, Recurrent)
    cell = next(module for module in model.modules() if isinstance(module, Cell))
    loop = onnx_form.looped(cell, torch.randn(2, 3, 16))
    for rows, length in ((2, 3), (4, 7), (1, 1)):
        x = torch.randn(rows, length, 16)
        torch.testing.assert_close(loop(x), cell(x), atol=1e-6, rtol=1e-6)
