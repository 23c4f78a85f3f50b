"""The metric of a study: a corpus score that follows from sums of sentence statistics.

BLEU adds up n-gram counts; a metric that is a mean over sentences, as ROUGE is, adds up its own
sentence scores and a count. Intervals and p-values need no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from seq2seq.errors import UserError
from seq2seq.rouge import make_scorer


class Metric(Protocol):
    """A corpus metric in percent."""

    def statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """float64 ``[N, S]``, one row a sentence."""

    def score(self, sums_S: np.ndarray) -> float:
        """The corpus score of summed statistics."""


class Bleu:
    """sacreBLEU, detokenised and case-sensitive; its statistics are counts of n-grams."""

    def __init__(self) -> None:
        from sacrebleu.metrics import BLEU

        self._corpus, self._sentence = BLEU(), BLEU(effective_order=True)

    def statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Matches and totals of four orders, length, reference length."""
        # As many references for each sentence as the poorest has: what the corpus score takes.
        common = min(len(r) for r in references)
        rows = []
        for hypothesis, given in zip(hypotheses, references, strict=True):
            found = self._sentence.sentence_score(hypothesis, list(given[:common]))
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        return np.array(rows, dtype=np.float64)

    def score(self, sums_S: np.ndarray) -> float:
        """See :class:`Metric`."""
        numbers = [int(x) for x in sums_S]
        return float(
            self._corpus.compute_bleu(
                numbers[:4], numbers[4:8], numbers[8], numbers[9], smooth_method="exp"
            ).score
        )


class RougeKind:
    """The mean F1 of ``rouge1``, ``rouge2`` or ``rougeL``; its statistics are F1 and one sentence.

    Raises:
        UserError: ``rouge-score`` is not installed.
    """

    def __init__(self, kind: str) -> None:
        self._kind, self._scorer = kind, make_scorer()

    def statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Against the nearest reference of each."""
        pairs = zip(hypotheses, references, strict=True)
        return np.array(
            [
                [self._scorer.score_multi(list(given), text)[self._kind].fmeasure, 1.0]
                for text, given in pairs
            ]
        )

    def score(self, sums_S: np.ndarray) -> float:
        """See :class:`Metric`."""
        return float(100 * sums_S[0] / sums_S[1])


METRICS: Mapping[str, Callable[[], Metric]] = {
    "bleu": Bleu,
    **{kind: partial(RougeKind, kind) for kind in ("rouge1", "rouge2", "rougeL")},
}


def metric_named(name: str) -> Metric:
    """The metric of a study file.

    Raises:
        UserError: an unknown one.
    """
    if name not in METRICS:
        raise UserError(f"metric {name!r} is unknown; known are {', '.join(METRICS)}")
    return METRICS[name]()
