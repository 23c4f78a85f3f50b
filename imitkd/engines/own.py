"""Our own decoder: model directories of ours and of ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from imitkd.engines.engine import Engine
from imitkd.engines.manifest import Manifest
from seq2seq.checkpoint import ModelDirectory, load_model_directory
from seq2seq.decoding import Beam, Greedy, generate
from seq2seq.modes import LengthLimit


class OwnEngine(Engine):
    """Every model, every device."""

    def __init__(self, directory: ModelDirectory, limit: LengthLimit | None = None) -> None:
        self.directory, self._limit = directory, limit
        self.vocabulary = directory.vocabulary
        self.longest_source = directory.model.config.max_source_length

    @classmethod
    def open(
        cls,
        path: Path,
        threads: int | None = None,
        device: str = "cpu",
        manifest: Manifest | None = None,
    ) -> OwnEngine:
        """Load a model directory.

        Args:
            threads: of the whole process.
            manifest: of an export, whose limits hold then.

        Raises:
            UserError: see :func:`~seq2seq.checkpoint.load_model_directory`.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        directory = load_model_directory(path, device)
        if manifest is None:
            return cls(directory)
        cap = min(manifest.limit.cap, manifest.max_target_length)
        found = cls(directory, replace(manifest.limit, cap=cap))
        found.longest_source = manifest.max_source_length
        return found

    def write(self, sources: Sequence[list[int]], beam: int = 1) -> list[list[int]]:
        """See :class:`~imitkd.engines.engine.Engine`."""
        mode = Beam(beam) if beam > 1 else Greedy()
        found = generate(self.directory.model, sources, mode, limit=self._limit, log_probs=False)
        return [hypotheses[0].ids for hypotheses in found]
