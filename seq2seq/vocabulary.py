"""SentencePiece vocabulary with fixed special ids and a fingerprint both sides compare."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from seq2seq.errors import UserError

PAD_ID, EOS_ID, UNK_ID, START_ID = 0, 1, 2, 3

_MODEL_FILE = "sentencepiece.model"
_META_FILE = "vocabulary.json"


class Vocabulary:
    """Text to ids and back.

    The special ids are pad 0, end of sequence 1, unknown 2, start of target 3. The start symbol
    has an id of its own: where start and end share one, sampled rows lose the loss of their first
    token (a defect of the paper's published code).
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, START_ID

    def __init__(self, model_bytes: bytes) -> None:
        """Build from a serialised SentencePiece model.

        Raises:
            UserError: the bytes are no such model, or its special ids are not (0, 1, 2, 3).
        """
        self._model_bytes = model_bytes
        try:
            if not model_bytes:
                raise RuntimeError("the file is empty")  # no fault to SentencePiece
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"not a SentencePiece model ({error}); retrain or copy it again"
            ) from error
        p = self._processor
        found = (p.pad_id(), p.eos_id(), p.unk_id(), p.bos_id())
        if found != (PAD_ID, EOS_ID, UNK_ID, START_ID):
            raise UserError(
                f"the SentencePiece model has special ids pad/eos/unk/bos {found}, expected "
                "(0, 1, 2, 3); train it with `imitkd teacher train`"
            )
        self.fingerprint = _fingerprint([p.id_to_piece(i) for i in range(len(p))], found)

    @property
    def size(self) -> int:
        """Number of ids, V."""
        return len(self._processor)

    def piece(self, token_id: int) -> str:
        """The piece with that id."""
        return self._processor.id_to_piece(int(token_id))

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without the end symbol."""
        return self._processor.encode(text)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without the end symbol."""
        return self._processor.encode(list(texts))

    def encode_source(self, text: str) -> list[int]:
        """Exactly the encoder's input: ids and the end symbol."""
        return [*self._processor.encode(text), EOS_ID]

    def encode_target(self, text: str) -> list[int]:
        """A finished target: ids and the end symbol, without the start symbol."""
        return [*self._processor.encode(text), EOS_ID]

    def segmentations(self, text: str, count: int) -> list[tuple[list[int], float]]:
        """The ``count`` most probable segmentations, best first: (ids without end, log-prob)."""
        found = self._processor.nbest_encode(text, nbest_size=count, return_type="proto")
        return [([piece.id for piece in n.pieces], n.score) for n in found.nbests]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; pad, end and start are dropped, unknown ids show as such."""
        return self._processor.decode([int(i) for i in ids if i > START_ID or i == UNK_ID])

    def save(self, directory: Path) -> None:
        """Write the tokenizer files into ``directory`` (created if absent)."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _MODEL_FILE).write_bytes(self._model_bytes)
        meta = {
            "kind": "sentencepiece",
            "size": self.size,
            "special_ids": {"pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID, "start": START_ID},
            "fingerprint": self.fingerprint,
        }
        (directory / _META_FILE).write_text(json.dumps(meta, indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Vocabulary:
        """Read tokenizer files.

        Raises:
            UserError: the model file is missing or broken, or does not match its fingerprint.
        """
        path = Path(directory) / _MODEL_FILE
        if not path.is_file():
            raise UserError(
                f"no tokenizer at {path}; a model directory has tokenizer/{_MODEL_FILE}"
            )
        vocabulary = cls(path.read_bytes())
        meta_path = Path(directory) / _META_FILE
        if meta_path.is_file():
            try:
                stated = json.loads(meta_path.read_text()).get("fingerprint")
            except (ValueError, AttributeError) as error:
                raise UserError(
                    f"{meta_path} is not valid JSON ({error}); copy it again"
                ) from error
            if stated != vocabulary.fingerprint:
                raise UserError(
                    f"{path} does not match the fingerprint in {meta_path}; copy the tokenizer "
                    "again"
                )
        return vocabulary

    @classmethod
    def train(cls, lines: Iterable[str], size: int) -> Vocabulary:
        """Train a unigram model over all ``lines`` (both languages for a joint vocabulary).

        Raises:
            UserError: there is too little text for ``size`` pieces.
        """
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=out,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                byte_fallback=False,
                pad_id=PAD_ID,
                eos_id=EOS_ID,
                unk_id=UNK_ID,
                bos_id=START_ID,
                normalization_rule_name="nmt_nfkc",
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"a vocabulary of {size} pieces cannot be trained on this text ({reason}); "
                "lower vocabulary.size or add text"
            ) from error
        return cls(out.getvalue())


def _fingerprint(pieces: Sequence[str], special_ids: Sequence[int]) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps({"special_ids": list(special_ids)}).encode())
    for piece in pieces:
        encoded = piece.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return "sha256:" + digest.hexdigest()
