"""Whether an export does what its source does, sentence by sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from imitkd.engines.engine import Engine
from imitkd.engines.own import OwnEngine
from seq2seq.checkpoint import ModelDirectory
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from seq2seq.metrics import Scores, score_translations
from seq2seq.modes import LengthLimit
from seq2seq.translation import encode_sources

# Two tokens as good as equal: their logits differ by no more, in nats. Sums in another order move a
# logit by about a hundredth of it.
TIE = 1e-3
_SHOWN = 60


class Peer(Protocol):
    """An exported model as its users have it: tokenizer and model."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encoder inputs, not cut."""

    def write(self, sources: Sequence[list[int]]) -> list[list[int]]:
        """The greedy target of each; the end symbol where it was written."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a target."""


class EnginePeer(Peer):
    """An engine of ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._vocabulary = engine, engine.vocabulary

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See :class:`Peer`."""
        return [self._vocabulary.as_source(ids) for ids in self._vocabulary.encode_many(texts)]

    def write(self, sources: Sequence[list[int]]) -> list[list[int]]:
        """See :class:`Peer`."""
        return self._engine.write(sources)

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`Peer`."""
        return self._vocabulary.decode(ids)


@dataclass(frozen=True)
class Check:
    """How an export compares with its source, both greedy.

    Attributes:
        where: the sentences are from.
        differing: sentences with another output.
        ties: those of them that part where two tokens are as good as equal to the source.
        before, after: scores of source and export; None without references.
    """

    where: str
    sentences: int
    differing: int
    ties: int
    before: Scores | None
    after: Scores | None

    @property
    def bleu_loss(self) -> float | None:
        """BLEU that the export is below its source."""
        if self.before is None or self.after is None:
            return None
        return self.before.bleu - self.after.bleu


def compare(
    source: ModelDirectory,
    peer: Peer,
    examples: Sequence[Example],
    where: str,
    *,
    exact: bool,
    max_bleu_loss: float,
    limit: LengthLimit | None = None,
) -> Check:
    """Translate with both.

    Args:
        exact: whether outputs must be equal but for ties; else they may cost ``max_bleu_loss``.

    Raises:
        UserError: the tokenizers differ, an output differs where it must not, or the loss is too
            large or cannot be known.
    """
    texts = [example.source for example in examples]
    cuts = source.vocabulary.encode_many(texts)
    whole = [source.vocabulary.as_source(ids) for ids in cuts]
    for text, ours, theirs in zip(texts, whole, peer.encode(texts), strict=True):
        if ours != list(theirs):
            raise _refused(f"its tokenizer cuts {_short(text)!r} into other ids")
    sources = encode_sources(source.vocabulary, texts, source.model.config.max_source_length)
    # No engine need take a source without text, and none is asked to.
    rows = [i for i, ids in enumerate(cuts) if ids]
    asked = [sources[i] for i in rows]
    expected, found = OwnEngine(source, limit).write(asked), peer.write(asked)
    parted = [n for n in range(len(rows)) if expected[n] != list(found[n])]
    tied = {n for n in parted if _is_tie(source, asked[n], expected[n], found[n])}
    written = [[source.vocabulary.decode(ids) for ids in expected], list(map(peer.decode, found))]
    for n, (ours, theirs) in enumerate(zip(*written, strict=True)):
        # How an unknown piece is shown is each tokenizer's own affair.
        same_ids = n not in parted and source.vocabulary.unk_id not in expected[n]
        if same_ids and ours != theirs:
            raise _refused(f"its tokenizer shows {_short(ours)!r} as {_short(theirs)!r}")
    if exact and len(tied) < len(parted):
        first = next(n for n in parted if n not in tied)
        raise _refused(
            f"{len(parted) - len(tied)} of {len(rows)} sentences come out differently; "
            f"{_short(texts[rows[first]])!r} gives {_short(written[1][first])!r} and not "
            f"{_short(written[0][first])!r}"
        )
    references = [examples[i].references for i in rows]
    before = after = None
    if all(references):
        before, after = (score_translations(t, references) for t in written)
    check = Check(where, len(rows), len(parted), len(tied), before, after)
    if not exact:
        _bound(check, max_bleu_loss)
    return check


def _bound(check: Check, max_bleu_loss: float) -> None:
    if check.bleu_loss is None:
        raise UserError(
            "what quantised weights cost is told in BLEU, and these sentences have no references; "
            "give --corpus DIR"
        )
    if check.bleu_loss > max_bleu_loss:
        raise UserError(
            f"nothing was written: the export loses {check.bleu_loss:.2f} BLEU, more than "
            f"{max_bleu_loss:g}; export it in float32, or allow more with --max-bleu-loss"
        )


@torch.inference_mode()
def _is_tie(
    source: ModelDirectory, ids: list[int], expected: Sequence[int], found: Sequence[int]
) -> bool:
    """Whether two targets part where the source finds both next tokens as good as equal."""
    pairs = zip(expected, found, strict=False)
    place = next((t for t, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        return False  # one goes on where the other ended
    model = source.model
    inputs = torch.tensor([[model.config.start_id, *expected[:place]]], device=model.device)
    encoded = torch.tensor([ids], device=model.device)
    lengths = torch.tensor([len(ids)], device=model.device)
    logits = model(encoded, lengths, inputs)[0, -1].float()
    return abs(float(logits[expected[place]] - logits[found[place]])) <= TIE


def _refused(reason: str) -> UserError:
    return UserError(f"nothing was written: the export is not what its source is: {reason}")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
