"""Model directories of ``transformers``: what ``save_pretrained`` of an encoder-decoder writes.

Read from local files, never with code of the directory's own and never with pickle. The only place
that imports ``transformers``, and only once such a directory is met.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from seq2seq.checkpoint import CONFIG_FILE, WEIGHTS_FILE, ModelDirectory, files_revision
from seq2seq.errors import UserError
from seq2seq.huggingface import HuggingFaceConfig, HuggingFaceModel, check_against_library
from seq2seq.sentencepiece_pair import (
    SOURCE_FILE,
    TABLE_FILE,
    TARGET_FILE,
    SentencePiecePair,
    read_table,
)
from seq2seq.tokenizers_vocabulary import (
    TOKENIZER_FILE,
    TokenizersVocabulary,
    read_tokenizer,
    unknown_id,
)
from seq2seq.vocabulary import SpecialIds, Vocabulary

# Longest source and target where positions are relative and the model states no limit (T5).
DEFAULT_LENGTH = 512
_GENERATION_FILE = "generation_config.json"
_INDEX_FILE = "model.safetensors.index.json"
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_huggingface_directory(
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    target_prefix: str | None = None,
) -> ModelDirectory:
    """See :func:`seq2seq.checkpoint.load_model_directory`.

    The revision also covers what is read before every target.

    Raises:
        UserError: ``transformers`` is not installed, a file is missing or broken, or the model is
            no encoder-decoder that scores as its own library does.
    """
    settings = _Settings(path)
    vocabulary = settings.vocabulary()
    files = _weight_files(path)
    library = _load_library(path, dtype)
    rows = len(library.get_output_embeddings().weight)
    if rows != vocabulary.size:
        raise UserError(
            f"{path}: the model scores {rows} ids but its configuration says {vocabulary.size}; "
            "copy the directory again"
        )
    start_ids = settings.start_ids(vocabulary, target_prefix)
    longest = getattr(settings.config, "max_position_embeddings", None) or DEFAULT_LENGTH
    config = HuggingFaceConfig(
        vocab_size=rows,
        d_model=library.get_output_embeddings().weight.shape[1],
        max_source_length=longest,
        max_target_length=longest - len(start_ids) + 1,
        pad_id=vocabulary.pad_id,
        eos_id=vocabulary.eos_id,
        start_ids=start_ids,
    )
    model = HuggingFaceModel(library, config).to(device).eval()
    check_against_library(model, f"{path} ({settings.config.model_type})")
    revision = files_revision([path / CONFIG_FILE, *files], json.dumps(asdict(config)))
    return ModelDirectory(path, model, vocabulary, revision, path.resolve().name)


def load_huggingface_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer of such a directory, without its weights.

    Raises:
        UserError: see :func:`load_huggingface_directory`.
    """
    return _Settings(path).vocabulary()


class _Settings:
    """The configuration of a directory: what the model is, and how the library generates."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            from transformers import AutoConfig, GenerationConfig
        except ImportError as error:
            raise UserError(
                f"{path} is a model of transformers, which is not installed ({error}); pip install "
                "'imitkd[huggingface]'"
            ) from error
        with library_faults(path):
            self.config = config = AutoConfig.from_pretrained(str(path), **_LOCAL)
            # As the library does: older directories have these settings in config.json alone.
            own = (path / _GENERATION_FILE).is_file()
            self._generation = GenerationConfig.from_pretrained(
                str(path), _GENERATION_FILE if own else CONFIG_FILE, **_LOCAL
            )
        if not config.is_encoder_decoder:
            raise UserError(
                f"{path}: model type {config.model_type!r} is no encoder-decoder; a teacher has a "
                "source and a target"
            )
        if getattr(config, "share_encoder_decoder_embeddings", True) is False:
            raise UserError(
                f"{path} has separate source and target vocabularies; a teacher needs a shared one"
            )

    def token_id(self, name: str) -> int | None:
        """A special id: the generation settings first, then the model's; the first of several."""
        for where in (self._generation, self.config):
            found = getattr(where, f"{name}_token_id", None)
            if isinstance(found, (list, tuple)):
                found = found[0] if found else None
            if found is not None:
                return int(found)
        return None

    def vocabulary(self) -> Vocabulary:
        """The tokenizer with the model's special ids.

        Raises:
            UserError: a special id is missing, or the files of the tokenizer are missing or broken.
        """
        start = self.token_id("decoder_start")
        # As the library does where a model names no start of its own.
        start = self.token_id("bos") if start is None else start
        pad, eos = self.token_id("pad"), self.token_id("eos")
        for name, found in (("pad", pad), ("eos", eos), ("decoder_start", start)):
            if found is None:
                raise UserError(
                    f"{self._path} has no {name}_token_id; add it to {_GENERATION_FILE}"
                )
        assert pad is not None and eos is not None and start is not None
        if pad == eos:
            raise UserError(
                f"{self._path} pads with its end symbol {eos}, so an end could not be scored; give "
                "it a pad_token_id of its own"
            )
        return self._tokenizer(pad, eos, start)

    def _tokenizer(self, pad: int, eos: int, start: int) -> Vocabulary:
        path, size = self._path, self.config.vocab_size
        if (path / TOKENIZER_FILE).is_file():
            content = read_tokenizer(path)
            unk = unknown_id(content)
            # A tokenizer of bytes knows every text.
            special = SpecialIds(pad, eos, pad if unk is None else unk, start)
            return TokenizersVocabulary(content, size, special)
        if all((path / name).is_file() for name in (SOURCE_FILE, TARGET_FILE, TABLE_FILE)):
            unk = read_table(path).get("<unk>", pad)
            return SentencePiecePair.read(path, size, SpecialIds(pad, eos, unk, start))
        raise UserError(
            f"{path} has no {TOKENIZER_FILE} (nor {SOURCE_FILE}, {TARGET_FILE} and {TABLE_FILE}); "
            "write one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )

    def start_ids(self, vocabulary: Vocabulary, target_prefix: str | None) -> tuple[int, ...]:
        """What is read before the first target: start symbol and forced prefix.

        Raises:
            UserError: a piece of the prefix is not in the vocabulary.
        """
        if target_prefix is None:
            forced = self.token_id("forced_bos")
            return (vocabulary.start_id, *([] if forced is None else [forced]))
        table = {vocabulary.piece(i): i for i in range(vocabulary.size)}
        pieces = target_prefix.split()
        for piece in pieces:
            if piece not in table:
                raise UserError(
                    f"{self._path}: target prefix {piece!r} is not a piece of its vocabulary; see "
                    "the model's card for its language codes"
                )
        return (vocabulary.start_id, *(table[piece] for piece in pieces))


def _load_library(path: Path, dtype: torch.dtype) -> Any:
    """The model, every weight from the directory.

    Raises:
        UserError: broken, or weights are missing.
    """
    from transformers import AutoModelForSeq2SeqLM

    with library_faults(path):
        library, found = AutoModelForSeq2SeqLM.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    # The library makes up what it does not find.
    absent = sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"]))
    if absent:
        raise UserError(
            f"{path}: {len(absent)} weights are missing or of another shape ({absent[0]} ...); "
            "copy the directory again"
        )
    return library


@contextlib.contextmanager
def library_faults(path: Path) -> Iterator[None]:
    """Quiet loading; whatever the library raises becomes one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # of many kinds, by file and family
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be loaded by transformers ({reason})") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _weight_files(path: Path) -> list[Path]:
    """The safetensors files that hold the weights.

    Raises:
        UserError: there are none.
    """
    if (path / WEIGHTS_FILE).is_file():
        return [path / WEIGHTS_FILE]
    index = path / _INDEX_FILE
    if not index.is_file():
        raise UserError(
            f"{path} has no {WEIGHTS_FILE} (pickled weights are never read); convert it with "
            "transformers: AutoModelForSeq2SeqLM.from_pretrained(DIR).save_pretrained(OUT)"
        )
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is broken ({error!r}); copy the directory again") from error
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
        raise UserError(f"{path / absent[0]} is missing; copy the directory again")
    return [path / name for name in names]
