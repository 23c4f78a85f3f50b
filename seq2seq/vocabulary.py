"""Text to ids and back: what every vocabulary offers, and the SentencePiece one.

A vocabulary is kept in the ``tokenizer/`` folder of a model directory: its own files, and
``vocabulary.json`` with its kind, its special ids and the fingerprint that both sides compare.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from seq2seq.errors import UserError
from seq2seq.parts import parts_of

PAD_ID, EOS_ID, UNK_ID, START_ID = 0, 1, 2, 3

META_FILE = "vocabulary.json"
_MODEL_FILE = "sentencepiece.model"
_LINE_WORDS = 16
_LINES_SHUFFLED = 1 << 17


@dataclass(frozen=True)
class SpecialIds:
    """Ids that are no text; ``start`` may be that of ``pad`` (T5, Marian) or ``eos`` (BART)."""

    pad: int
    eos: int
    unk: int
    start: int


class Vocabulary(ABC):
    """Text to ids and back.

    Attributes:
        pad_id, eos_id, unk_id, start_id: padding, end of sequence, unknown, start of target.
        source_prefix, source_suffix: what stands around the ids of a source's text; the suffix
            holds the end symbol (mBART's has a language code behind it).
        fingerprint: ``sha256:...`` of the id -> piece table and the special ids.
    """

    kind: str
    fingerprint: str
    source_prefix: tuple[int, ...] = ()
    source_suffix: tuple[int, ...]

    def __init__(self, special: SpecialIds) -> None:
        self.special = special
        self.pad_id, self.eos_id = special.pad, special.eos
        self.unk_id, self.start_id = special.unk, special.start
        self.source_suffix = (special.eos,)

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of ids, V."""

    @abstractmethod
    def piece(self, token_id: int) -> str:
        """The piece with that id."""

    @abstractmethod
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many source texts, without what stands around them."""

    def encode_many_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many target texts, without the end symbol."""
        return self.encode_many(texts)

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of target ids; pad, end and start are dropped."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the tokenizer files into ``directory`` (created if absent)."""

    @property
    def source_tail(self) -> int:
        """How many ids of a source stand behind its end symbol."""
        suffix = self.source_suffix
        return len(suffix) - 1 - suffix.index(self.eos_id) if self.eos_id in suffix else 0

    def encode(self, text: str) -> list[int]:
        """Ids of one source text, without what stands around them."""
        return self.encode_many([text])[0]

    def as_source(self, ids: Sequence[int], limit: int | None = None) -> list[int]:
        """Exactly the encoder's input; of more than ``limit`` ids the text loses its end."""
        if limit is not None:
            ids = ids[: max(0, limit - len(self.source_prefix) - len(self.source_suffix))]
        return [*self.source_prefix, *ids, *self.source_suffix]

    def as_target(self, ids: Sequence[int], limit: int | None = None) -> list[int]:
        """A finished target, without the start symbol; one over ``limit`` ids loses its end."""
        return [*(ids if limit is None else ids[: limit - 1]), self.eos_id]

    def encode_source(self, text: str) -> list[int]:
        """Exactly the encoder's input: ids, the end symbol and whatever else belongs to it."""
        return self.as_source(self.encode(text))

    def encode_target(self, text: str) -> list[int]:
        """A finished target: ids and the end symbol, without the start symbol."""
        return self.as_target(self.encode_many_targets([text])[0])

    def segmentations(self, text: str, count: int) -> list[tuple[list[int], float]]:
        """The ``count`` most probable segmentations of a source: (ids, log-prob), best first.

        Raises:
            UserError: this kind of vocabulary has but one.
        """
        raise UserError(
            f"a vocabulary of kind {self.kind!r} has one segmentation of a text; set "
            "corpus.source_candidates to 1"
        )

    def meta(self) -> dict[str, Any]:
        """What ``vocabulary.json`` holds."""
        return {
            "kind": self.kind,
            "size": self.size,
            "special_ids": asdict(self.special),
            "fingerprint": self.fingerprint,
        }

    def save_meta(self, directory: Path) -> None:
        """Write ``vocabulary.json`` into ``directory`` (created if absent)."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / META_FILE).write_text(json.dumps(self.meta(), indent=2) + "\n")


def load_vocabulary(directory: Path) -> Vocabulary:
    """Read a ``tokenizer/`` folder of any kind.

    Raises:
        UserError: a file is missing or broken, the kind is unknown, or the files do not match
            their fingerprint.
    """
    directory = Path(directory)
    meta = _read_meta(directory / META_FILE)
    kind = meta.get("kind", SentencePieceVocabulary.kind)
    vocabulary: Vocabulary
    if kind == SentencePieceVocabulary.kind:
        vocabulary = SentencePieceVocabulary.read(directory)
    elif kind == "tokenizers":
        from seq2seq.tokenizers_vocabulary import TokenizersVocabulary

        vocabulary = TokenizersVocabulary.read(directory, *_size_and_special(directory, meta))
    elif kind == "sentencepiece-pair":
        from seq2seq.sentencepiece_pair import SentencePiecePair

        vocabulary = SentencePiecePair.read(directory, *_size_and_special(directory, meta))
    else:
        raise UserError(
            f"{directory / META_FILE} is of the unknown kind {kind!r}; update imitkd or copy the "
            "tokenizer again"
        )
    if meta.get("fingerprint", vocabulary.fingerprint) != vocabulary.fingerprint:
        raise UserError(
            f"the tokenizer in {directory} does not match the fingerprint in "
            f"{directory / META_FILE}; copy the tokenizer again"
        )
    return vocabulary


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text())
        if not isinstance(meta, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy it again") from error
    return meta


def _size_and_special(directory: Path, meta: dict[str, Any]) -> tuple[int, SpecialIds]:
    try:
        return int(meta["size"]), SpecialIds(**{k: int(v) for k, v in meta["special_ids"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{directory / META_FILE} has no size and special ids ({error!r}); copy it again"
        ) from error


def fingerprint_of(pieces: Iterable[str], special: SpecialIds) -> str:
    """``sha256:...`` of the id -> piece table and the special ids, whatever the tokenizer."""
    digest = hashlib.sha256()
    ids = [special.pad, special.eos, special.unk, special.start]
    digest.update(json.dumps({"special_ids": ids}).encode())
    for piece in pieces:
        encoded = piece.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return "sha256:" + digest.hexdigest()


class SentencePieceVocabulary(Vocabulary):
    """One SentencePiece model for both sides.

    The special ids of one trained here are pad 0, end of sequence 1, unknown 2, start of target 3.
    One made elsewhere, such as Marian's, keeps its end and unknown; pad and start are ids behind
    its pieces. The start symbol has an id of its own: where start and end share one, sampled rows
    lose the loss of their first token (a defect of the paper's published code).

    Attributes:
        model_bytes: the serialised SentencePiece model.
    """

    kind = "sentencepiece"

    def __init__(self, model_bytes: bytes, where: str = "the tokenizer") -> None:
        """Build from a serialised SentencePiece model.

        Args:
            where: it came from, for messages.

        Raises:
            UserError: the bytes are no such model, or it has no end or no unknown symbol.
        """
        self.model_bytes = model_bytes
        try:
            if not model_bytes:
                raise RuntimeError("the file is empty")  # no fault to SentencePiece
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{where}: not a SentencePiece model ({error}); retrain or copy it again"
            ) from error
        p = self._processor
        special = SpecialIds(p.pad_id(), p.eos_id(), p.unk_id(), p.bos_id())
        if min(special.eos, special.unk) < 0:
            raise UserError(
                "the SentencePiece model has no end symbol or none for unknown pieces; train one "
                "with `imitkd teacher train`"
            )
        self._appended: tuple[str, ...] = ()
        if special != SpecialIds(PAD_ID, EOS_ID, UNK_ID, START_ID):
            special = SpecialIds(len(p), special.eos, special.unk, len(p) + 1)
            self._appended = ("<pad>", "<start>")
        super().__init__(special)
        self.fingerprint = fingerprint_of(map(self.piece, range(self.size)), special)

    @property
    def size(self) -> int:
        return len(self._processor) + len(self._appended)

    def piece(self, token_id: int) -> str:
        behind = int(token_id) - len(self._processor)
        return self._processor.id_to_piece(int(token_id)) if behind < 0 else self._appended[behind]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def segmentations(self, text: str, count: int) -> list[tuple[list[int], float]]:
        found = self._processor.nbest_encode(text, nbest_size=count, return_type="proto")
        return [([piece.id for piece in n.pieces], n.score) for n in found.nbests]

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`Vocabulary`; unknown ids show as such."""
        dropped = {self.pad_id, self.eos_id, self.start_id}
        return self._processor.decode([int(i) for i in ids if int(i) not in dropped])

    def save(self, directory: Path) -> None:
        self.save_meta(directory)
        (directory / _MODEL_FILE).write_bytes(self.model_bytes)

    @classmethod
    def read(cls, directory: Path) -> SentencePieceVocabulary:
        """The model in a ``tokenizer/`` folder.

        Raises:
            UserError: it is missing or broken.
        """
        path = directory / _MODEL_FILE
        if not path.is_file():
            raise UserError(
                f"no tokenizer at {path}; a model directory has tokenizer/{_MODEL_FILE}"
            )
        return cls(path.read_bytes(), str(path))

    @classmethod
    def train(cls, lines: Iterable[str], size: int) -> SentencePieceVocabulary:
        """Train a unigram model over all ``lines`` (both languages for a joint vocabulary).

        Raises:
            UserError: there is too little text for ``size`` pieces.
        """
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_scattered(lines),
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


def _scattered(lines: Iterable[str]) -> Iterator[str]:
    """The same words in short lines, a hundred thousand of them at a time in another order.

    The trainer follows every repeated string to its end, over the ends of lines: texts that occur
    twice cost it their length squared. And it leaves out a line of thousands of characters. Pieces
    end with words, so little depends on what stands beside a word: of which strings are looked at
    at all, where the text is a few sentences again and again.
    """
    short = (" ".join(part) for line in lines for part in parts_of(line.split(), _LINE_WORDS))
    order = random.Random(0)
    for some in parts_of(short, _LINES_SHUFFLED):
        order.shuffle(some)
        yield from some
