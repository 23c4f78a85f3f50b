"""Intervals and p-values against sacreBLEU's own; BLEU from sums against the corpus score."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest, estimate_ci

from imitkd.study.metrics import Bleu, metric_named
from imitkd.study.significance import draws, interval, mean_over, paired_p_value, resampled
from seq2seq.errors import UserError
from seq2seq.metrics import score_translations
from seq2seq.rouge import score_summaries

WORDS = "the a red blue cat dog sees runs quickly home now , .".split()  # noqa: SIM905


def text(seed: int, count: int = 80) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]


def worse(texts: list[str], share: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else w for w in line.split())
        for line in texts
    ]


REFERENCE = text(1)
GOOD, BAD = worse(REFERENCE, 0.2, 2), worse(REFERENCE, 0.5, 3)


@pytest.mark.parametrize("hypotheses", [GOOD, BAD, REFERENCE, text(9)])
@pytest.mark.parametrize("count", [1, 2])
def test_bleu_of_summed_statistics_is_the_corpus_score(hypotheses: list[str], count: int) -> None:
    references = [[r, *text(i + 50, 1)][:count] for i, r in enumerate(REFERENCE)]
    metric = Bleu()
    found = metric.score(metric.statistics(hypotheses, references).sum(axis=0))
    assert found == pytest.approx(score_translations(hypotheses, references).bleu)


def test_the_poorest_sentence_says_how_many_references_count() -> None:
    references = [["a b", "c d"], ["a b c"]]
    metric = Bleu()
    found = metric.score(metric.statistics(["c d", "a b c"], references).sum(axis=0))
    assert found == pytest.approx(score_translations(["c d", "a b c"], references).bleu)


def test_resamples_and_p_values_are_sacrebleus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    tests = PairedTest(
        [("bad", BAD), ("good", GOOD)], {"BLEU": BLEU(references=[REFERENCE])}, references=None,
        test_type="bs", n_samples=200,
    )  # fmt: skip
    _, found = tests()
    theirs = found["BLEU"]
    metric, chosen = Bleu(), draws(len(REFERENCE), 200, seed=7)
    references = [[r] for r in REFERENCE]
    statistics = [metric.statistics(texts, references) for texts in (BAD, GOOD)]
    bad, good = (resampled(s, metric.score, chosen) for s in statistics)
    for ours, their in zip((bad, good), theirs, strict=True):
        mean, half = estimate_ci(ours)
        assert (mean, half) == pytest.approx((their.mean, their.ci), rel=1e-5)
        low, high = interval(ours)
        assert low == pytest.approx(mean - half, abs=0.7) and high - low == pytest.approx(
            2 * half, abs=0.7
        )
    scores = [metric.score(s.sum(axis=0)) for s in statistics]
    assert paired_p_value(good, bad, scores[1] - scores[0]) == pytest.approx(theirs[1].p_value)


def test_a_system_beside_itself_is_never_better() -> None:
    metric = Bleu()
    statistics = metric.statistics(GOOD, [[r] for r in REFERENCE])
    scores = resampled(statistics, metric.score, draws(len(GOOD), 50, seed=1))
    assert paired_p_value(scores, scores, 0.0) == 1.0
    assert paired_p_value(scores, scores + np.linspace(-1, 1, 50), 0.0) > 0.4


def test_a_metric_that_is_a_mean_over_sentences_needs_no_more() -> None:
    statistics = np.array([[1.0, 1], [0.0, 1], [0.5, 1]])
    found = resampled(statistics, lambda s: 100 * s[0] / s[1], np.array([[0, 0, 0], [1, 2, 2]]))
    assert found.tolist() == pytest.approx([100, 100 / 3])
    assert mean_over([found, np.zeros(2)]).tolist() == pytest.approx([50, 50 / 3])


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_of_summed_statistics_is_the_corpus_score(kind: str) -> None:
    pytest.importorskip("rouge_score")
    references = [[r, *text(i + 50, 1)] for i, r in enumerate(REFERENCE)]
    metric = metric_named(kind)
    found = metric.score(metric.statistics(GOOD, references).sum(axis=0))
    assert found == pytest.approx(getattr(score_summaries(GOOD, references), kind))


def test_an_unknown_metric_is_named_with_the_known() -> None:
    with pytest.raises(UserError, match=r"'meteor' is unknown; known are bleu"):
        metric_named("meteor")
