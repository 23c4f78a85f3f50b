"""A teacher with the part of its vocabulary that a task needs.

A multilingual or general teacher has tens of thousands of pieces; of its student's parameters most
would be embeddings, of each step most would be logits. Pieces that occur in no text of the task go,
from the tokenizer and from the embedding table alike. A text of the task is cut as it was before;
any other is cut into smaller pieces, none of its characters being lost that were known. The
teacher's distributions are those it had, renormalised over the pieces that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2

from imitkd.corpora.reading import read_lines
from imitkd.distilling.recipe import RECIPE_FILE
from seq2seq.checkpoint import (
    ModelDirectory,
    check_is_new,
    load_model_directory,
    save_model_directory,
)
from seq2seq.corpus import stream_split
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.parts import parts_of
from seq2seq.vocabulary import SentencePieceVocabulary
from student_trainer.targets import read_distilled

_BATCH = 4096
_VOCABULARY_ROWS = ("embedding.weight", "logit_bias", "source_embedding.weight")
# Its messages are made when it is imported: nothing a type checker sees.
_MODEL: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Trimmed:
    """What is left.

    Attributes:
        kept: ids of the whole model's vocabulary, in order; row i of the tables was row kept[i].
    """

    model: Seq2SeqModel
    vocabulary: SentencePieceVocabulary
    kept: list[int]


def texts_of(corpora: Sequence[Path], files: Sequence[Path]) -> Iterator[str]:
    """Texts of the training splits (references and what a teacher wrote), lines of plain files.

    Raises:
        UserError: one cannot be read.
    """
    for corpus in corpora:
        if (corpus / RECIPE_FILE).is_file():
            for row in read_distilled(corpus / "train.jsonl"):
                yield from (row.source, *row.references, *row.candidates)
        else:
            for example in stream_split(corpus, "train"):
                yield from (example.source, *example.references)
    for file in files:
        yield from read_lines(file)


def trim(whole: ModelDirectory, texts: Iterable[str], least: int = 1) -> Trimmed:
    """Leave out the pieces that occur less than ``least`` times in ``texts``.

    Special symbols, bytes and single characters stay.

    Raises:
        UserError: the model is not of the kinds whose vocabulary can be cut.
    """
    vocabulary = whole.vocabulary
    ours = isinstance(whole.model, EncoderDecoder)
    if not isinstance(vocabulary, SentencePieceVocabulary) or not ours:
        raise UserError(
            f"{whole.path} has a vocabulary of kind {vocabulary.kind!r}; only models of ours with "
            "one SentencePiece model for both languages can be trimmed"
        )
    used: Counter[int] = Counter()
    for some in parts_of(texts, _BATCH):
        for ids in vocabulary.encode_many(some):
            used.update(ids)
    pieces = _MODEL.FromString(vocabulary.model_bytes)
    kept = [
        i
        for i, piece in enumerate(pieces.pieces)
        if piece.type != _MODEL.SentencePiece.NORMAL or len(piece.piece) == 1 or used[i] >= least
    ]
    chosen = [pieces.pieces[i] for i in kept]
    del pieces.pieces[:]
    pieces.pieces.extend(chosen)
    pieces.trainer_spec.vocab_size = len(chosen)
    smaller = SentencePieceVocabulary(pieces.SerializeToString())
    # Ids behind the pieces (pad and start of a model made elsewhere) stay behind them.
    kept += range(vocabulary.size - (smaller.size - len(chosen)), vocabulary.size)
    return Trimmed(_with_rows(whole.model, smaller, kept), smaller, kept)


def _with_rows(
    model: Seq2SeqModel, vocabulary: SentencePieceVocabulary, kept: list[int]
) -> Seq2SeqModel:
    config = model.config.model_dump() | {
        "vocab_size": vocabulary.size,
        "pad_id": vocabulary.pad_id,
        "eos_id": vocabulary.eos_id,
        "start_id": vocabulary.start_id,
    }
    fresh = build_model(config)
    rows = torch.tensor(kept)
    state = model.state_dict()
    fresh.load_state_dict({k: v[rows] if k in _VOCABULARY_ROWS else v for k, v in state.items()})
    return fresh.eval()


def trim_directory(
    path: Path, output: Path, texts: Iterable[str], *, least: int = 1, name: str | None = None
) -> tuple[ModelDirectory, Trimmed]:
    """Trim a model directory into another; gives the whole model and what is left of it.

    Raises:
        UserError: see :func:`trim`; or a directory cannot be read or written, or ``output`` is
            there already.
    """
    check_is_new(output)
    whole = load_model_directory(path)
    trimmed = trim(whole, texts, least)
    name = name or Path(output).resolve().name
    card = _card(whole, trimmed, name)
    save_model_directory(output, trimmed.model, trimmed.vocabulary, name=name, card=card)
    return whole, trimmed


def _card(whole: ModelDirectory, trimmed: Trimmed, name: str) -> str:
    return f"""# {name}

{whole.name} (revision `{whole.revision}`) with {trimmed.vocabulary.size:,} of its
{whole.vocabulary.size:,} ids: those that occur in the text of a task, single characters and special
symbols. {trimmed.model.parameter_count():,} of {whole.model.parameter_count():,} parameters.

Training data, evaluation and licence are those of {whole.name}.
"""
