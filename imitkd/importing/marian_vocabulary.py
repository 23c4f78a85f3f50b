"""Marian's vocabularies as ours: a SentencePiece model, or a table of pieces and ids.

Marian knows two special symbols, end and unknown. Padding and start get ids behind its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from imitkd.importing.marian_files import MarianFiles
from seq2seq.errors import UserError
from seq2seq.sentencepiece_pair import SentencePiecePair
from seq2seq.vocabulary import SentencePieceVocabulary, SpecialIds, Vocabulary

END, UNKNOWN = "</s>", "<unk>"


def read_vocabulary(files: MarianFiles, pieces: int) -> Vocabulary:
    """The vocabulary of a model of ``pieces`` ids.

    Raises:
        UserError: a file is missing or broken, or it is the vocabulary of another model.
    """
    vocabulary = _table(files, pieces) if files.source_pieces else _shared(files.vocabulary)
    if vocabulary.size != pieces + 2:
        raise UserError(
            f"{files.vocabulary} has {vocabulary.size - 2} pieces but {files.model} {pieces}; give "
            "the vocabulary that the model was trained with"
        )
    return vocabulary


def _shared(path: Path) -> Vocabulary:
    vocabulary = SentencePieceVocabulary(_bytes(path), str(path))
    if vocabulary.pad_id == 0:
        raise UserError(f"{path} is a vocabulary of ours, not one that Marian was trained with")
    return vocabulary


def _table(files: MarianFiles, pieces: int) -> Vocabulary:
    assert files.source_pieces is not None and files.target_pieces is not None
    table = read_table(files.vocabulary)
    special = SpecialIds(pad=len(table), eos=table[END], unk=table[UNKNOWN], start=len(table) + 1)
    source, target = _bytes(files.source_pieces), _bytes(files.target_pieces)
    return SentencePiecePair(source, target, table, len(table) + 2, special)


def read_table(path: Path) -> dict[str, int]:
    """Piece -> id from YAML or JSON; the ids are 0, 1, 2, ...

    Raises:
        UserError: missing or broken, or without an end or unknown symbol.
    """
    try:
        text = _bytes(path).decode()
        entries = json.loads(text) if path.suffix == ".json" else dict(_yaml_entries(text))
        if not isinstance(entries, dict):
            raise ValueError("no mapping")
        table = {piece: int(number) for piece, number in entries.items()}
        if sorted(table.values()) != list(range(len(table))):
            raise ValueError(f"its {len(table)} pieces do not have the ids 0 to {len(table) - 1}")
        for piece in (END, UNKNOWN):
            if piece not in table:
                raise ValueError(f"it has no {piece}")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is no table of pieces and ids ({reason}); copy it again"
        ) from error
    return table


def _yaml_entries(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of one flat mapping, as they are written: ``no`` and ``1.5`` are pieces.

    Read as events, not composed into a document: that is quick for a long table, and no depth of
    nesting in a damaged file can end the process.
    """
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    kinds = (yaml.StreamStartEvent, yaml.DocumentStartEvent, yaml.MappingStartEvent)
    key: str | None = None
    for number, event in enumerate(yaml.parse(text, loader)):
        if number < len(kinds):
            if not isinstance(event, kinds[number]):
                raise ValueError("no mapping")
        elif isinstance(event, yaml.MappingEndEvent):
            return
        elif not isinstance(event, yaml.ScalarEvent):
            raise ValueError("a mapping of pieces to numbers is expected")
        elif key is None:
            key = event.value
        else:
            yield key, event.value
            key = None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
