"""Texts in, texts out, with whatever a directory runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imitkd.engines.engine import Engine
from imitkd.engines.opening import open_engine

_BATCH = 256


class Translator:
    """A student or teacher ready to translate: an export, or a model directory.

    ::

        from imitkd import Translator

        translator = Translator("runs/demo/export")
        translator.translate(["Close the door."])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: str = "cpu",
        beam: int = 1,
    ) -> None:
        """Load the directory; the engine is chosen by what it is.

        Args:
            threads: CPU threads; None takes all cores.
            beam: size of the beam; 1 is greedy.

        Raises:
            UserError: it is no such directory, it is damaged, or what runs it is not installed.
        """
        self.engine: Engine = open_engine(Path(directory), threads, device)
        self._beam = beam

    @classmethod
    def of(cls, engine: Engine, *, beam: int = 1) -> Translator:
        """With an engine that is loaded already, of an ensemble for instance."""
        found = cls.__new__(cls)
        found.engine, found._beam = engine, beam
        return found

    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation for each text, in order; a blank text has a blank one.

        A text longer than the model takes loses its end.
        """
        found: list[str] = []
        for begin in range(0, len(texts), _BATCH):
            part = texts[begin : begin + _BATCH]
            found += self.translate_ids(self.sources_of(part))
        return found

    def sources_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Encoder inputs of texts, cut to what the model takes."""
        vocabulary, longest = self.engine.vocabulary, self.engine.longest_source
        return [vocabulary.as_source(ids, longest) for ids in vocabulary.encode_many(texts)]

    def translate_ids(self, sources: Sequence[list[int]]) -> list[str]:
        """Translations of encoder inputs; of one without text, an empty one."""
        vocabulary = self.engine.vocabulary
        nothing = vocabulary.as_source([])
        asked = [source for source in sources if list(source) != nothing]
        written = iter(self.engine.write(asked, self._beam))
        return [
            vocabulary.decode(next(written)) if list(source) != nothing else ""
            for source in sources
        ]
