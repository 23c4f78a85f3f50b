"""A Marian model with its vocabulary as one of our model directories."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imitkd.importing.marian_binary import read_binary
from imitkd.importing.marian_files import MarianFiles
from imitkd.importing.marian_npz import read_npz
from imitkd.importing.marian_options import model_section, read_options
from imitkd.importing.marian_vocabulary import read_vocabulary
from imitkd.importing.marian_weights import TABLE, state_of
from seq2seq.checkpoint import check_is_new, save_model_directory
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.vocabulary import Vocabulary


@dataclass(frozen=True)
class Imported:
    """A model as it was read.

    Attributes:
        options: what Marian says of it.
    """

    model: Seq2SeqModel
    vocabulary: Vocabulary
    options: dict[str, Any]


def read_marian(files: MarianFiles, max_length: int) -> Imported:
    """Read model and vocabulary.

    Args:
        max_length: longest source and target, in ids; Marian's positions have no end.

    Raises:
        UserError: a file is missing or damaged, or the model has parts that ours do not have.
    """
    read = read_npz if files.model.suffix == ".npz" else read_binary
    items = read(files.model)
    options = read_options(items, files.model)
    section = model_section(options, files.model, max_length)
    pieces = _pieces(items, files.model)
    vocabulary = read_vocabulary(files, pieces)
    model = build_model(
        section
        | {
            "vocab_size": vocabulary.size,
            "pad_id": vocabulary.pad_id,
            "eos_id": vocabulary.eos_id,
            "start_id": vocabulary.start_id,
        }
    )
    model.load_state_dict(state_of(items, model.config, pieces, files.model))
    return Imported(model.eval(), vocabulary, options)


def import_marian(files: MarianFiles, output: Path, *, name: str, max_length: int) -> Imported:
    """Read a model and write it as a model directory with its card.

    Raises:
        UserError: see :func:`read_marian`; or the directory cannot be written, or is there already
            and not empty.
    """
    check_is_new(output)
    found = read_marian(files, max_length)
    card = _card(files, found, name)
    save_model_directory(output, found.model, found.vocabulary, name=name, card=card)
    return found


def _pieces(items: dict[str, np.ndarray], where: Path) -> int:
    table = items.get(TABLE)
    if table is None or table.ndim != 2:
        raise UserError(f"{where} has no embedding table {TABLE}; download the model again")
    return len(table)


def _card(files: MarianFiles, found: Imported, name: str) -> str:
    config = found.model.config
    decoder = "SSRU" if config.kind == "recurrent" else "self-attention"
    sources = "\n".join(
        f"| `{path.name}` | {path.stat().st_size:,} | `{_sha256(path)}` |" for path in files.all()
    )
    return f"""# {name}

Imported from a [Marian](https://marian-nmt.github.io) model (version
{found.options.get("version", "not stated")}).

| | |
|---|---|
| encoder | {config.encoder_layers} Transformer layers |
| decoder | {config.decoder_layers} layers, {decoder} |
| width, heads, feed-forward | {config.d_model}, {config.heads}, {config.ffn} |
| norm, activation | {config.norm}, {config.activation} |
| ids | {config.vocab_size:,}, of which pad {config.pad_id} and start {config.start_id} are ours |
| parameters | {found.model.parameter_count():,} |

Made of these files:

| file | bytes | sha256 |
|---|---|---|
{sources}

Weights are stored as float16. What was int8 is multiplied out; activations are not quantised and no
lexical short-list is used, so a translation can differ from that of Marian's own 8-bit engine.

Training data, evaluation and licence are those of the model it was made from.
"""


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
