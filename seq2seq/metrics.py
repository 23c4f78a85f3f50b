"""Corpus scores of translations, by sacreBLEU, with their signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from seq2seq.errors import UserError

# What a model is judged by: translations by BLEU, summaries by ROUGE.
Metric = Literal["bleu", "rouge"]


@dataclass(frozen=True)
class Scores:
    """BLEU and chrF of a corpus in percent, each with the signature that makes it comparable."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str

    def as_dict(self) -> dict[str, float | str]:
        """Plain values for JSON."""
        return asdict(self)


def score_translations(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Detokenised, case-sensitive BLEU and chrF2.

    Args:
        hypotheses: one text for each sentence.
        references: for each sentence its references; the smallest number of references any
            sentence has is used throughout, since the corpus scores need the same number of each.

    Raises:
        UserError: a sentence has no reference.
        ValueError: there is not one list of references for each hypothesis, or there are none.
    """
    from sacrebleu.metrics import BLEU, CHRF

    check_references(hypotheses, references)
    count = min(len(r) for r in references)
    streams = [[r[i] for r in references] for i in range(count)]
    bleu, chrf = BLEU(), CHRF()
    bleu_score = bleu.corpus_score(list(hypotheses), streams)
    chrf_score = chrf.corpus_score(list(hypotheses), streams)
    return Scores(
        bleu_score.score, chrf_score.score, str(bleu.get_signature()), str(chrf.get_signature())
    )


def check_references(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what cannot be scored.

    Raises:
        UserError: a sentence has no reference.
        ValueError: there is not one list of references for each hypothesis, or there are none.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} translations and {len(references)} lists of references: "
            "one list for each, and at least one, is needed"
        )
    for number, given in enumerate(references, 1):
        if not given:
            raise UserError(
                f"sentence {number} of {len(references)} has no reference, so there is nothing to "
                "score against; evaluate on a split with references"
            )


def sentence_bleu(hypothesis: str, references: Sequence[str]) -> float:
    """sacreBLEU of one sentence in percent; n-gram orders it is too short for do not count."""
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True).sentence_score(hypothesis, list(references)).score
