"""ROUGE of summaries, by ``rouge-score``, with what makes it comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from statistics import fmean
from typing import Any

from seq2seq.errors import UserError
from seq2seq.metrics import check_references

_TYPES = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Rouge:
    """Mean F1 in percent of words, of pairs of words, and of the longest common subsequence."""

    rouge1: float
    rouge2: float
    rougeL: float
    rouge_signature: str

    @property
    def mean(self) -> float:
        """One number to choose a model by."""
        return fmean((self.rouge1, self.rouge2, self.rougeL))

    def as_dict(self) -> dict[str, float | str]:
        """Plain values for JSON."""
        return asdict(self)


def make_scorer() -> Any:
    """The library's scorer of single summaries.

    Raises:
        UserError: ``rouge-score`` is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError(
            f"ROUGE needs rouge-score ({error}); pip install 'imitkd[summarisation]'"
        ) from error
    return RougeScorer(list(_TYPES), use_stemmer=True)


def score_summaries(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-L, words lower-cased and stemmed (Porter).

    With several references a summary counts, for each of the three, against the one that it is
    nearest to by F1: ``RougeScorer.score_multi``. The corpus score is the mean over summaries.

    Args:
        hypotheses: one text for each source.
        references: for each source its references, any number of them.

    Raises:
        UserError: a source has no reference, or ``rouge-score`` is not installed.
        ValueError: there is not one list of references for each hypothesis, or there are none.
    """
    found = score_each(hypotheses, references)
    words, pairs, longest = (100 * fmean(scores) for scores in zip(*found, strict=True))
    version = metadata.version("rouge-score")
    return Rouge(words, pairs, longest, f"f1|stem:porter|refs:best|version:{version}")


def score_each(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[tuple[float, ...]]:
    """F1 in 0 .. 1 of ROUGE-1, ROUGE-2 and ROUGE-L of each summary: see :func:`score_summaries`."""
    scorer = make_scorer()
    check_references(hypotheses, references)
    each = (
        scorer.score_multi(list(given), text)
        for text, given in zip(hypotheses, references, strict=True)
    )
    return [tuple(scores[kind].fmeasure for kind in _TYPES) for scores in each]
