"""CTranslate2 on a CPU. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imitkd.engines.engine import Engine, target_limits
from imitkd.engines.manifest import Manifest
from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary

# Sentences computed side by side: of sixteen, a small model's rows stay in the caches of a core.
_BATCH = 16


class CTranslate2Engine(Engine):
    """An export, or any directory of CTranslate2 whose tokens are those of a vocabulary."""

    def __init__(self, path: Path, manifest: Manifest, threads: int | None = None) -> None:
        """Load it.

        Raises:
            UserError: CTranslate2 is not installed or cannot read the directory, or the tokenizer
                is not the one that was exported.
        """
        try:
            import ctranslate2
        except ImportError as error:
            raise UserError(
                f"{path} runs on CTranslate2, which is not installed; pip install 'imitkd[export]'"
            ) from error
        self.vocabulary = manifest.vocabulary(path)
        self.longest_source = manifest.max_source_length
        self._manifest, self._tokens = manifest, tokens_of(self.vocabulary)
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        try:
            self._translator: Any = ctranslate2.Translator(
                str(path),
                device="cpu",
                # Batches side by side, each on a core of its own: the products are too small to
                # be worth sharing one.
                inter_threads=threads or os.cpu_count() or 1,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"CTranslate2 cannot read {path} ({' '.join(str(error).split())}); export again"
            ) from error

    def write(self, sources: Sequence[list[int]], beam: int = 1) -> list[list[int]]:
        """See :class:`~imitkd.engines.engine.Engine`."""
        if not sources:
            return []
        manifest = self._manifest
        limits = target_limits(sources, manifest.limit, manifest.max_target_length)
        # One limit for all: what is written beyond a row's own is cut.
        found = self._translator.translate_batch(
            [[self._tokens[i] for i in source] for source in sources],
            beam_size=beam,
            max_batch_size=_BATCH,
            max_decoding_length=max(limits),
            min_decoding_length=0,
            return_end_token=True,
            suppress_sequences=[[self._tokens[i]] for i in manifest.suppressed],
        )
        return [
            [self._ids[token] for token in result.hypotheses[0]][:limit]
            for result, limit in zip(found, limits, strict=True)
        ]


def tokens_of(vocabulary: Vocabulary) -> list[str]:
    """A name for every id, all different: its piece, or its number where that names another."""
    tokens: dict[str, int] = {}
    for i in range(vocabulary.size):
        piece = vocabulary.piece(i)
        tokens[piece if piece and piece not in tokens else f"<id {i}>"] = i
    return list(tokens)
