"""Stacks of cells in model directories; directories of the older kinds are read as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.checkpoint import load_model_directory, save_model_directory
from seq2seq.errors import UserError
from tests.builders import STACKED, sentences, tiny_model, tiny_vocabulary


@pytest.mark.parametrize("shape", STACKED)
def test_what_is_saved_is_loaded(shape: str, tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    model = tiny_model(2, vocab_size=vocabulary.size, **STACKED[shape])
    save_model_directory(tmp_path / "m", model, vocabulary, name="m", card="", dtype=torch.float32)
    found = load_model_directory(tmp_path / "m").model
    inputs = torch.tensor([[3, 8, 12]])
    given = *pad_sequences([[5, 9, 40, 1]], 0), inputs
    assert found.config == model.config and torch.equal(found(*given), model(*given))
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    for change, message in [
        ({"decoder_width": 0}, "decoder_width: .*given 0"),
        ({"decoder_width": 40}, r"does not fit its config\.json .*size mismatch"),
    ]:
        file.write_text(json.dumps(config | {"model": config["model"] | change}))
        with pytest.raises(UserError, match=message) as caught:
            load_model_directory(tmp_path / "m")
        assert "\n" not in str(caught.value)


def test_sources_may_have_embeddings_of_their_own() -> None:
    model = tiny_model(2, **STACKED["stacked-sru"])
    sources, targets = sentences(1, [5, 3]), sentences(2, [4, 4])
    given = *pad_sequences(sources, 0), decoder_inputs(pad_sequences(targets, 0)[0], 3)
    before = model.decode(model.encode(*given[:2]), given[2])
    with torch.no_grad():
        model.embedding.weight.add_(1.0)
    encoded = model.encode(*given[:2])
    state = model.start(encoded)
    assert not torch.allclose(model.decode(encoded, given[2]), before)
    with torch.no_grad():
        model.embedding.weight.sub_(1.0)
        found = [model.step(ids, state) for ids in given[2].t()]
    torch.testing.assert_close(torch.stack(found, 1), before, atol=2e-5, rtol=1e-4)


def test_an_older_model_directory_is_read_as_ever(tmp_path: Path) -> None:
    """Tensors, configuration and logits written down when no model had widths of its own."""
    tensors = {
        "logit_bias": (48,),
        "embedding.weight": (48, 16),
        "encoder_layers.0.rightwards.feedback": (2, 8),
        "encoder_layers.0.rightwards.bias": (2, 8),
        "encoder_layers.0.rightwards.packed.weight": (32, 16),
        "encoder_layers.0.leftwards.feedback": (2, 8),
        "encoder_layers.0.leftwards.bias": (2, 8),
        "encoder_layers.0.leftwards.packed.weight": (32, 16),
        "encoder_layers.0.block.norm.weight": (16,),
        "encoder_layers.0.block.norm.bias": (16,),
        "decoder_layers.0.cell.feedback": (2, 16),
        "decoder_layers.0.cell.bias": (2, 16),
        "decoder_layers.0.cell.packed.weight": (48, 16),
        "decoder_layers.0.cross_attention.query.weight": (16, 16),
        "decoder_layers.0.cross_attention.query.bias": (16,),
        "decoder_layers.0.cross_attention.packed.weight": (32, 16),
        "decoder_layers.0.cross_attention.packed.bias": (32,),
        "decoder_layers.0.cross_attention.out.weight": (16, 16),
        "decoder_layers.0.cross_attention.out.bias": (16,),
        "decoder_layers.0.self_block.norm.weight": (16,),
        "decoder_layers.0.self_block.norm.bias": (16,),
        "decoder_layers.0.cross_block.norm.weight": (16,),
        "decoder_layers.0.cross_block.norm.bias": (16,),
        "encoder_norm.weight": (16,),
        "encoder_norm.bias": (16,),
        "decoder_norm.weight": (16,),
        "decoder_norm.bias": (16,),
    }
    shape = {"vocab_size": 48, "d_model": 16, "heads": 2, "ffn": 0, "encoder_layers": 1}
    shape |= {"decoder_layers": 1, "norm": "pre", "activation": "relu", "positions": "none"}
    shape |= {"dropout": 0.1, "max_source_length": 48, "max_target_length": 48, "pad_id": 0}
    shape |= {"eos_id": 1, "start_id": 3, "kind": "recurrent", "cell": "sru"}
    config = {"name": "older", "model": shape | {"encoder": "recurrent"}}
    generator = torch.Generator().manual_seed(1)
    given = {name: torch.randn(size, generator=generator) for name, size in tensors.items()}
    save_file(given, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_vocabulary().save(tmp_path / "tokenizer")
    model = load_model_directory(tmp_path).model
    # In this order, too: an optimiser's state goes by it.
    assert [name for name, _ in model.named_parameters()] == list(tensors)
    logits = model(*pad_sequences([[5, 9, 40, 1], [7, 1]], 0), torch.tensor([[3, 8], [3, 30]]))
    torch.testing.assert_close(
        logits[1, 1, :4], torch.tensor([2.2573857, 0.3867020, 0.0574899, -4.0386133])
    )
