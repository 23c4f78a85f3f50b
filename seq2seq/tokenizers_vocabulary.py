"""A vocabulary over ``tokenizer.json``, the one file of a fast Hugging Face tokenizer.

It needs the package ``tokenizers`` alone, so a student can be trained and used with its teacher's
tokenizer where ``transformers`` is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seq2seq.errors import UserError
from seq2seq.vocabulary import SpecialIds, Vocabulary, fingerprint_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
# Any text does: what the tokenizer puts around its ids is what it puts around all.
_PROBE = "a"


class TokenizersVocabulary(Vocabulary):
    """One fast tokenizer for both sides.

    What its post-processor puts around a text (end symbol, language code) belongs to sources.
    Targets get the end symbol alone: what comes before them is the model's to say (``start_ids``).
    """

    kind = "tokenizers"

    def __init__(self, content: str, size: int, special: SpecialIds) -> None:
        """Build from the text of a ``tokenizer.json``.

        Args:
            size: ids of the model; it may have more than the tokenizer has pieces.

        Raises:
            UserError: the text is no tokenizer, has more pieces than ``size``, or the package is
                not installed.
        """
        super().__init__(special)
        self._content = content
        self._tokenizer = tokenizer = _parse(content)
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= size:
            raise UserError(
                f"{TOKENIZER_FILE} has ids up to {highest}, more than the model's {size}; copy the "
                "directory again"
            )
        self._size = size
        self.source_prefix, self.source_suffix = self._around()
        self.fingerprint = fingerprint_of((self.piece(i) for i in range(size)), special)

    @property
    def size(self) -> int:
        return self._size

    def piece(self, token_id: int) -> str:
        """The piece with that id; "" where the tokenizer has none."""
        return self._tokenizer.id_to_token(int(token_id)) or ""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, directory: Path) -> None:
        self.save_meta(directory)
        (directory / TOKENIZER_FILE).write_text(self._content)

    @classmethod
    def read(cls, directory: Path, size: int, special: SpecialIds) -> TokenizersVocabulary:
        """The tokenizer in a folder.

        Raises:
            UserError: it is missing or broken.
        """
        return cls(read_tokenizer(directory), size, special)

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the post-processor puts before and behind the ids of a text.

        One that adds nothing leaves the end symbol to be added: a source is never empty.
        """
        bare = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        whole = self._tokenizer.encode(_PROBE).ids
        for begin in range(len(whole) - len(bare) + 1):
            if bare and whole[begin : begin + len(bare)] == bare:
                prefix, suffix = whole[:begin], whole[begin + len(bare) :]
                return tuple(prefix), tuple(suffix or [self.eos_id])
        return (), (self.eos_id,)


def read_tokenizer(directory: Path) -> str:
    """The text of ``tokenizer.json``.

    Raises:
        UserError: it is missing or not readable.
    """
    path = directory / TOKENIZER_FILE
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; copy it again") from error


def unknown_id(content: str) -> int | None:
    """The id for what the tokenizer does not know; None where it knows everything (bytes).

    Raises:
        UserError: the text is no tokenizer, or the package is not installed.
    """
    tokenizer = _parse(content)
    # A Unigram model names its unknown piece by id, the others by text.
    unk_id: int | None = getattr(tokenizer.model, "unk_id", None)
    if unk_id is not None:
        return unk_id
    for piece in (getattr(tokenizer.model, "unk_token", None), "<unk>", "[UNK]"):
        found = tokenizer.token_to_id(piece) if piece else None
        if found is not None:
            return found
    return None


def _parse(content: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"this tokenizer needs the package tokenizers ({error}); pip install "
            "'imitkd[huggingface]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the package raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"not a {TOKENIZER_FILE} ({reason}); copy it again") from error
    # What was set for training must not cut or pad what is encoded here.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
