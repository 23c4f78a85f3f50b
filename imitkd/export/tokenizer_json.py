"""A vocabulary as ``tokenizer.json``, which the fast tokenizers of Hugging Face read.

A SentencePiece model becomes the same parts under other names: its table of characters, its
handling of blanks, its pieces with their log-probabilities. Nothing here imports ``tokenizers``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError
from seq2seq.tokenizers_vocabulary import TOKENIZER_FILE, TokenizersVocabulary
from seq2seq.vocabulary import SentencePieceVocabulary, Vocabulary

CONFIG_FILE = "tokenizer_config.json"
_BLANK = "▁"
# Blanks that are taken off the front of a text.
_LEADING = 64


def save_tokenizer(vocabulary: Vocabulary, directory: Path, longest: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        longest: ids of a source at most.

    Raises:
        UserError: the vocabulary has no such form.
    """
    if isinstance(vocabulary, TokenizersVocabulary):
        vocabulary.save(directory)
    elif isinstance(vocabulary, SentencePieceVocabulary):
        content = json.dumps(_of_sentencepiece(vocabulary), ensure_ascii=False)
        (directory / TOKENIZER_FILE).write_text(content, encoding="utf-8")
    else:
        raise UserError(
            f"a vocabulary of kind {vocabulary.kind!r} has no form of one {TOKENIZER_FILE}; export "
            "with --to ctranslate2 or --to onnx"
        )
    values: dict[str, Any] = {
        # The class that takes a tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
    special = vocabulary.special
    names = {"unk": special.unk, "pad": special.pad, "eos": special.eos, "bos": special.start}
    values |= {f"{name}_token": vocabulary.piece(i) for name, i in names.items()}
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _of_sentencepiece(vocabulary: SentencePieceVocabulary) -> dict[str, Any]:
    proto = _parsed(vocabulary.model_bytes)
    trainer, normaliser = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.UNIGRAM or trainer.byte_fallback:
        raise UserError(
            "only a SentencePiece unigram model without byte pieces has the form of a "
            f"{TOKENIZER_FILE}; export with --to ctranslate2 or --to onnx"
        )
    steps: list[dict[str, Any]] = []
    if normaliser.precompiled_charsmap:
        table = base64.b64encode(normaliser.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if normaliser.remove_extra_whitespaces:
        steps += [
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]
    blank = {
        "type": "Metaspace",
        "replacement": _BLANK,
        "prepend_scheme": "always" if normaliser.add_dummy_prefix else "never",
        "split": True,
    }
    special = vocabulary.special
    eos = vocabulary.piece(special.eos)
    # Ids behind the pieces are no text; what they weigh does not matter.
    scores = [piece.score for piece in proto.pieces]
    scores += [0.0] * (vocabulary.size - len(scores))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, vocabulary) for i in sorted(vars(special).values())],
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": blank,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": eos, "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": eos, "type_id": 0}},
            ],
            "special_tokens": {eos: {"id": eos, "ids": [special.eos], "tokens": [eos]}},
        },
        # SentencePiece shows no blank before the first letter, however many were written.
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": _LEADING, "stop": 0},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": special.unk,
            "vocab": [[vocabulary.piece(i), score] for i, score in enumerate(scores)],
            "byte_fallback": False,
        },
    }


def _added(token_id: int, vocabulary: Vocabulary) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": vocabulary.piece(token_id), **flags, "special": True}


def _parsed(model: bytes) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2 as form
    except ImportError as error:
        raise UserError(
            f"a SentencePiece model is read with protobuf ({error}); pip install 'imitkd[export]'"
        ) from error
    messages: Any = form
    return messages.ModelProto.FromString(model)
