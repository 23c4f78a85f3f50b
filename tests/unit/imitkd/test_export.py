"""Models handed to other libraries compute what they compute here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seq2seq import ctranslate2_form
from seq2seq.batch import length_mask, pad_sequences
from seq2seq.transformer import Transformer
from tests.builders import sentences, tiny_model, weights_of

V = 31
SOURCES = sentences(3, [5, 2, 9, 3, 7], V)  # a lone end symbol is no source for CTranslate2
SHAPES = [("pre", "relu"), ("post", "gelu"), ("pre", "swish")]


def model_of(norm: str, activation: str) -> Transformer:
    return tiny_model(
        3, vocab_size=V, norm=norm, activation=activation, encoder_layers=3, spread=0.5
    )


@pytest.mark.parametrize(("norm", "activation"), SHAPES)
def test_transformers_computes_the_same_logits(norm: str, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    from imitkd.export import huggingface

    model = model_of(norm, activation)
    values = huggingface.configuration(model.config)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    peer = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    assert type(peer).__name__ == values["architectures"][0]
    peer.load_state_dict(huggingface.state(model))
    source, lengths = pad_sequences(SOURCES, 0)
    inputs = torch.randint(4, V, (len(SOURCES), 6), generator=torch.Generator().manual_seed(1))
    inputs[:, 0] = 3
    with torch.no_grad():
        expected = model(source, lengths, inputs)
        mask = length_mask(lengths, source.shape[1]).long()
        found = peer(input_ids=source, attention_mask=mask, decoder_input_ids=inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("norm", "activation"), SHAPES)
def test_ctranslate2_computes_the_same_log_probs(
    norm: str, activation: str, tmp_path: Path
) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    model = model_of(norm, activation)
    tokens = [f"piece{i}" for i in range(V)]
    ctranslate2_form.save(model, tokens, tmp_path)
    peer = ctranslate2.Translator(str(tmp_path), compute_type="float32")
    targets = sentences(4, [6, 4, 9, 2, 5], V)
    found = peer.score_batch(
        [[tokens[i] for i in source] for source in SOURCES],
        [[tokens[i] for i in target[:-1]] for target in targets],
    )
    for result, source, target in zip(found, SOURCES, targets, strict=True):
        inputs = torch.tensor([[3, *target[:-1]]])
        with torch.no_grad():
            logits = model(torch.tensor([source]), torch.tensor([len(source)]), inputs)[0]
        expected = logits.log_softmax(1).gather(1, torch.tensor(target)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(result.log_probs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "int8_float32"])
def test_quantising_an_export_leaves_the_model_as_it_is(tmp_path: Path, quantization: str) -> None:
    """CTranslate2 scales the arrays it is given in place."""
    pytest.importorskip("ctranslate2")
    model = model_of("pre", "relu")
    before = weights_of(model)
    tokens = [f"piece{i}" for i in range(V)]
    ctranslate2_form.save(model, tokens, tmp_path, quantization=quantization)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
