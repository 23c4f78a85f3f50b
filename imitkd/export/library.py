"""An exported directory as users of ``transformers`` have it: its tokenizer, its ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from imitkd.engines.engine import target_limits
from imitkd.export.checking import Peer
from seq2seq.batch import length_mask, pad_sequences
from seq2seq.errors import UserError
from seq2seq.huggingface_directory import library_faults
from seq2seq.modes import LengthLimit

_BATCH = 64
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


class LibraryPeer(Peer):
    """Nothing but the library's own classes, chosen by the directory's configuration."""

    def __init__(self, path: Path, limit: LengthLimit) -> None:
        """Load the directory.

        Raises:
            UserError: ``transformers`` is not installed or cannot load it.
        """
        try:
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"a directory of transformers is checked with transformers ({error}); pip install "
                "'imitkd[huggingface]'"
            ) from error
        self._limit = limit
        with library_faults(path):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(path), **_LOCAL)
            self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(
                str(path), dtype=torch.float32, use_safetensors=True, **_LOCAL
            ).eval()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See :class:`Peer`."""
        # Not verbose: what is too long is what the check wants to see, not a warning of its own.
        found: list[list[int]] = self._tokenizer(list(texts), verbose=False).input_ids
        return found

    def write(self, sources: Sequence[list[int]]) -> list[list[int]]:
        """See :class:`Peer`."""
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        found: list[list[int]] = [[] for _ in sources]
        with torch.inference_mode():
            for begin in range(0, len(order), _BATCH):
                rows = order[begin : begin + _BATCH]
                for i, ids in zip(rows, self._batch([sources[i] for i in rows]), strict=True):
                    found[i] = ids
        return found

    def _batch(self, sources: list[list[int]]) -> list[list[int]]:
        settings = self._model.generation_config
        limits = target_limits(sources, self._limit, settings.max_length - 1)
        ids, lengths = pad_sequences(sources, settings.pad_token_id)
        written = self._model.generate(
            input_ids=ids,
            attention_mask=length_mask(lengths, ids.shape[1]).long(),
            max_new_tokens=max(limits),
            max_length=None,
        )
        end, found = settings.eos_token_id, []
        # The first id is the start symbol.
        for (_, *row), limit in zip(written.tolist(), limits, strict=True):
            stop = row.index(end) + 1 if end in row else len(row)
            found.append(row[: min(stop, limit)])
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`Peer`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
