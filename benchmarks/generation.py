"""Greedy and beam decoding against ``transformers`` and CTranslate2, same weights and sentences.

The shipped teacher translates English captions of Multi30k's test split (UI strings of its own
test split where Multi30k is not there), at most 64 at a time, two threads. All get the sentences in
the corpus's order: ours and CTranslate2 order them by length themselves, ``transformers`` takes
batches as they come; how it does on batches that somebody sorted for it is measured as well. Each
engine runs once to warm up; then they take turns, and each ratio is the median of those within a
turn.
"""

from __future__ import annotations

import gzip
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import torch
import transformers

from benchmarks.form import Figure, Result, paired_ratio, run
from imitkd.demo import CORPUS, TEACHER
from imitkd.export import huggingface
from imitkd.shipped import shipped
from seq2seq import ctranslate2_form
from seq2seq.batch import length_mask, pad_sequences
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.decoding import Beam, Greedy, LengthLimit, generate
from seq2seq.transformer import Transformer
from seq2seq.translation import encode_sources

CAPTIONS = Path("../shared/data/multi30k/test_2016_flickr.en.gz")
BATCH = 64
LIMIT = LengthLimit(ratio=2.0, offset=10, cap=128)
Ids = list[list[int]]


def measure(quick: bool) -> Result:
    """Times of all engines for greedy and beam 5, and how many outputs agree."""
    torch.set_num_threads(2)
    directory = load_model_directory(shipped(TEACHER))
    model = directory.model
    assert isinstance(model, Transformer)
    texts, origin = _texts(128 if quick else 256)
    sources = encode_sources(directory.vocabulary, texts, model.config.max_source_length)
    figures: dict[str, Figure] = {}
    detail: dict[str, Any] = {
        "sentences": len(sources),
        "text": origin,
        "mean_source_ids": sum(map(len, sources)) / len(sources),
        "transformers": transformers.__version__,
        "ctranslate2": ctranslate2.__version__,
    }
    with tempfile.TemporaryDirectory() as scratch:
        tokens = [f"{i}" for i in range(model.config.vocab_size)]
        ctranslate2_form.save(model, tokens, Path(scratch))
        peers: dict[str, Callable[[int], Ids]] = {
            "ours": lambda beams: _ours(model, sources, beams),
            "transformers": _Transformers(model, sources),
            "transformers_sorted": _Transformers(model, sources, in_order=False),
            "ctranslate2": _CTranslate2(scratch, sources),
        }
        for beams in (1, 5):
            outputs, times = _turns(peers, beams, 3 if quick else 9)
            ids = sum(map(len, outputs["ours"]))
            name = "greedy" if beams == 1 else f"beam{beams}"
            detail[name] = {
                "seconds": times,
                "target_ids": ids,
                "equal_to_ours": {
                    peer: sum(a == b for a, b in zip(found, outputs["ours"], strict=True))
                    / len(sources)
                    for peer, found in outputs.items()
                },
            }
            median = {peer: statistics.median(found) for peer, found in times.items()}
            detail[name]["ids_per_s"] = {
                peer: sum(map(len, outputs[peer])) / t for peer, t in median.items()
            }
            for peer in list(peers)[1:]:
                figure = _name(beams, peer)
                ratio = paired_ratio(times[peer], times["ours"])
                figures[figure] = Figure(ratio, "ratio", _GOALS.get(figure))
    return Result(figures, detail)


_GOALS = {
    "generate_over_transformers": ">= 3",
    "generate_over_ctranslate2_float32": ">= 0.7",
    "beam5_over_transformers": ">= 2",
}


def _name(beams: int, peer: str) -> str:
    what = "generate" if beams == 1 else f"beam{beams}"
    return f"{what}_over_{peer}" + ("_float32" if peer == "ctranslate2" else "")


def _texts(count: int) -> tuple[list[str], str]:
    if CAPTIONS.is_file():
        lines = gzip.decompress(CAPTIONS.read_bytes()).decode().splitlines()
        return lines[:count], "Multi30k, test 2016, English"
    return [e.source for e in read_split(Path("data") / CORPUS, "test")][:count], f"{CORPUS}, test"


def _turns(
    peers: dict[str, Callable[[int], Ids]], beams: int, repeats: int
) -> tuple[dict[str, Ids], dict[str, list[float]]]:
    """Outputs, and seconds of every repeat."""
    outputs = {name: peer(beams) for name, peer in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, peer in peers.items():
            begin = time.perf_counter()
            peer(beams)
            times[name].append(time.perf_counter() - begin)
    return outputs, times


def _ours(model: Transformer, sources: Ids, beams: int) -> Ids:
    mode = Greedy() if beams == 1 else Beam(beams)
    found = generate(
        model, sources, mode, limit=LIMIT, batch_tokens=1 << 30, batch_rows=BATCH, log_probs=False
    )
    return [[i for i in best.ids if i != model.config.eos_id] for best, *_ in found]


class _Transformers:
    """``generate`` of the same weights as a Pegasus model."""

    def __init__(self, model: Transformer, sources: Ids, in_order: bool = True) -> None:
        values = huggingface.configuration(model.config)
        kind = values.pop("model_type")
        config = transformers.AutoConfig.for_model(kind, **values)
        self._peer = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
        self._peer.load_state_dict(huggingface.state(model))
        rows = range(len(sources))
        self._order = list(rows) if in_order else sorted(rows, key=lambda i: len(sources[i]))
        self._sources, self._config = sources, model.config

    def __call__(self, beams: int) -> Ids:
        found: Ids = [[] for _ in self._sources]
        for begin in range(0, len(self._order), BATCH):
            rows = self._order[begin : begin + BATCH]
            part = [self._sources[i] for i in rows]
            ids, lengths = pad_sequences(part, self._config.pad_id)
            with torch.inference_mode():
                written = self._peer.generate(
                    input_ids=ids,
                    attention_mask=length_mask(lengths, ids.shape[1]).long(),
                    num_beams=beams,
                    do_sample=False,
                    max_new_tokens=max(LIMIT.of(len(s)) for s in part),
                )
            special = {self._config.pad_id, self._config.eos_id, self._config.start_id}
            for row, ids in zip(rows, written.tolist(), strict=True):
                found[row] = [i for i in ids if i not in special]
        return found


class _CTranslate2:
    """The same weights in float32."""

    def __init__(self, directory: str, sources: Ids) -> None:
        self._peer = ctranslate2.Translator(
            directory, compute_type="float32", inter_threads=1, intra_threads=2
        )
        self._sources = [[str(i) for i in row] for row in sources]

    def __call__(self, beams: int) -> Ids:
        found = self._peer.translate_batch(
            self._sources,
            max_batch_size=BATCH,
            beam_size=beams,
            max_decoding_length=max(LIMIT.of(len(s)) for s in self._sources),
        )
        return [[int(i) for i in row.hypotheses[0]] for row in found]


if __name__ == "__main__":
    run("generation", measure)
