"""The tokenizer of Marian models as Hugging Face keeps them: two SentencePiece models, one table.

``source.spm`` and ``target.spm`` cut texts into pieces; ``vocab.json`` gives a piece its id on
either side. Read without ``transformers``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from seq2seq.errors import UserError
from seq2seq.vocabulary import SpecialIds, Vocabulary, fingerprint_of

SOURCE_FILE, TARGET_FILE, TABLE_FILE = "source.spm", "target.spm", "vocab.json"


class SentencePiecePair(Vocabulary):
    """Sources are cut by one SentencePiece model, targets by another; ids are shared.

    A source may begin with a language code, ``>>fra<<``, which is a piece of its own. Punctuation
    is taken as it comes; ``transformers`` normalises it first where ``sacremoses`` is installed.
    """

    kind = "sentencepiece-pair"

    def __init__(
        self, source: bytes, target: bytes, table: dict[str, int], size: int, special: SpecialIds
    ) -> None:
        """Build from two serialised SentencePiece models and the piece -> id table.

        Raises:
            UserError: the bytes are no such models, or the table has ids of ``size`` or more.
        """
        super().__init__(special)
        self._files = {SOURCE_FILE: source, TARGET_FILE: target}
        self._source, self._target = (_processor(n, b) for n, b in self._files.items())
        self._table, self._size = table, size
        self._pieces = dict(sorted((i, piece) for piece, i in table.items()))
        if not all(0 <= i < size for i in self._pieces):
            raise UserError(
                f"{TABLE_FILE} has ids outside the model's 0 .. {size - 1}; copy it again"
            )
        self.fingerprint = fingerprint_of((self.piece(i) for i in range(size)), special)

    @property
    def size(self) -> int:
        return self._size

    def piece(self, token_id: int) -> str:
        """The piece with that id; "" where the table has none."""
        return self._pieces.get(int(token_id), "")

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(self._source, text) for text in texts]

    def encode_many_targets(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(self._target, text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        dropped = {self.pad_id, self.eos_id, self.start_id}
        pieces = [self.piece(i) for i in ids if int(i) not in dropped]
        return self._target.decode_pieces(pieces)

    def save(self, directory: Path) -> None:
        self.save_meta(directory)
        for name, content in self._files.items():
            (directory / name).write_bytes(content)
        table = json.dumps(self._table, ensure_ascii=False, indent=0)
        (directory / TABLE_FILE).write_text(table + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path, size: int, special: SpecialIds) -> SentencePiecePair:
        """The tokenizer in a folder.

        Raises:
            UserError: a file is missing or broken.
        """
        try:
            source = (directory / SOURCE_FILE).read_bytes()
            target = (directory / TARGET_FILE).read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename}: {error.strerror}; copy the directory again"
            ) from error
        return cls(source, target, read_table(directory), size, special)

    def _ids(self, processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
        pieces: list[str] = []
        if processor is self._source and text.startswith(">>") and "<<" in text:
            code, text = text[: text.index("<<") + 2], text[text.index("<<") + 2 :]
            pieces.append(code)
        pieces += processor.encode(text, out_type=str)
        return [self._table.get(piece, self.unk_id) for piece in pieces]


def read_table(directory: Path) -> dict[str, int]:
    """``vocab.json``: piece -> id.

    Raises:
        UserError: missing or broken.
    """
    path = directory / TABLE_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; copy it again") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy it again") from error
    if not isinstance(table, dict) or not all(type(i) is int for i in table.values()):
        raise UserError(f"{path} is no table of pieces and ids; copy it again")
    return table


def _processor(name: str, content: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        if not content:
            raise RuntimeError("the file is empty")  # no fault to SentencePiece
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{name} is not a SentencePiece model ({error}); copy it again") from error
