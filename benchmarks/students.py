"""What the kinds of student cost: a training step without its output projection, and writing.

Batches of 48 random sentences of 20 ids, vocabulary 4,000, width 256, two layers a side, one
thread, whose own time is counted: other work on the machine matters little. Kinds take turns; each
figure is the median. Every student writes 24 ids a sentence: none may end.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.form import Figure, Result, run
from seq2seq.batch import decoder_inputs
from seq2seq.decoding import Greedy, LengthLimit, generate
from seq2seq.model import Seq2SeqModel, build_model

SENTENCES, LENGTH, WRITTEN, VOCABULARY = 48, 20, 24, 4000
SHAPE = {"vocab_size": VOCABULARY, "d_model": 256, "heads": 4, "ffn": 768, "dropout": 0.1}
SHAPE |= {"encoder_layers": 2, "decoder_layers": 2}
CELLS = ("ssru", "sru", "gru", "lstm")
KINDS: dict[str, dict[str, Any]] = {"transformer": {"kind": "transformer"}}
KINDS |= {cell: {"kind": "recurrent", "cell": cell} for cell in CELLS}
KINDS |= {
    f"{cell}_both_sides": {"kind": "recurrent", "cell": cell, "encoder": "recurrent", "ffn": 0}
    for cell in CELLS
}


def measure(quick: bool) -> Result:
    """Milliseconds a step and sentences a second of every kind."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(4, VOCABULARY, (2, SENTENCES, LENGTH), generator=generator)
    models = {name: _model(shape) for name, shape in KINDS.items()}
    steps: dict[str, list[float]] = {name: [] for name in models}
    writes: dict[str, list[float]] = {name: [] for name in models}
    for turn in range((2 if quick else 8) + 1):
        for name, model in models.items():
            found = _seconds_of_step(model, *ids_BS), _seconds_of_writing(model, ids_BS[0])
            if turn:  # the first one warms up
                steps[name].append(found[0])
                writes[name].append(found[1])
    figures: dict[str, Figure] = {}
    for name in models:
        figures[f"{name}_step"] = Figure(1e3 * statistics.median(steps[name]), "ms")
        rate = SENTENCES / statistics.median(writes[name])
        figures[f"{name}_greedy"] = Figure(rate, "sentences/s")
    parameters = {name: model.parameter_count() for name, model in models.items()}
    return Result(figures, {"parameters": parameters, "step_s": steps, "greedy_s": writes})


def _model(shape: dict[str, Any]) -> Seq2SeqModel:
    torch.manual_seed(1)
    model = build_model(SHAPE | shape)
    with torch.no_grad():
        model.output_projection()[1][model.config.eos_id] = -1e3
    return model


def _seconds_of_step(model: Seq2SeqModel, source_BS: Tensor, target_BS: Tensor) -> float:
    model.train()
    begin = time.process_time()
    model.dropout_source.begin_step(1, 1)
    model.zero_grad()
    encoded = model.encode(source_BS, torch.full((SENTENCES,), LENGTH))
    model.decode(
        encoded, decoder_inputs(target_BS, model.config.start_id)
    ).square().mean().backward()
    return time.process_time() - begin


def _seconds_of_writing(model: Seq2SeqModel, source_BS: Tensor) -> float:
    sources = source_BS.tolist()
    begin = time.process_time()
    generate(model, sources, Greedy(), limit=LengthLimit(0, WRITTEN, WRITTEN), log_probs=False)
    return time.process_time() - begin


if __name__ == "__main__":
    run("students", measure)
