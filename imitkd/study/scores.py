"""From the texts of finished cells to the rows of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imitkd.study.cell_files import CellFacts, CellFiles
from imitkd.study.metrics import Metric, metric_named
from imitkd.study.plan import BASELINES, StudyConfig
from imitkd.study.significance import draws, interval, mean_over, paired_p_value, resampled
from seq2seq.errors import UserError
from seq2seq.metrics import Scores, score_translations
from seq2seq.rouge import Rouge, score_summaries

References = Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True)
class _Scored:
    """A cell on a test split.

    Attributes:
        value: of the study's metric on the greedy texts.
        rouge, rouge_beam: of the greedy texts and of the beam's, where that is the metric.
        resamples_R: the same on every resample.
    """

    facts: CellFacts
    test: str
    greedy: Scores
    beam: Scores
    value: float
    resamples_R: np.ndarray
    rouge: Rouge | None
    rouge_beam: Rouge | None


def score_cells(
    study: StudyConfig, finished: Sequence[CellFiles], references: References
) -> dict[str, Any]:
    """``rows``, one for each cell and test split; ``means`` over seeds; and what they rest on.

    Intervals, differences and p-values are of the metric on the greedy texts. A row is compared
    with the same student, seed and split; of means it is the difference of the means over seeds.

    Raises:
        UserError: a cell's files cannot be read, or are of another number of sentences.
    """
    metric = metric_named(study.metric)
    scored: list[_Scored] = []
    for test in study.tests:
        chosen = draws(len(references[test]), study.resamples, study.bootstrap_seed)
        for files in finished:
            scored.append(_scored(files, test, references[test], metric, study, chosen))
    baselines: dict[str, dict[str, str]] = {
        variant.label: {name: variant.baselines.get(name, name) for name in BASELINES}
        for variant in study.variants
    }
    first = scored[0]
    signatures = {"bleu": first.greedy.bleu_signature, "chrf": first.greedy.chrf_signature}
    if first.rouge is not None:
        signatures["rouge"] = first.rouge.rouge_signature
    return {
        "study": study.name,
        "metric": study.metric,
        "signatures": signatures,
        "bootstrap": {"resamples": study.resamples, "seed": study.bootstrap_seed, "level": 0.95},
        "beam": study.beam,
        "threads": study.threads,
        "tests": {test: len(references[test]) for test in study.tests},
        "rows": [_row([one], scored, baselines, one.facts.seed) for one in scored],
        "means": [_row(group, scored, baselines, _seeds(group)) for group in _over_seeds(scored)],
    }


def _scored(
    files: CellFiles,
    test: str,
    references: Sequence[Sequence[str]],
    metric: Metric,
    study: StudyConfig,
    chosen: np.ndarray,
) -> _Scored:
    texts = {how: files.read_texts(test, how) for how in ("greedy", f"beam{study.beam}")}
    for how, lines in texts.items():
        if len(lines) != len(references):
            raise UserError(
                f"{files.path}/{test}.{how}.txt has {len(lines)} lines for {len(references)} "
                f"sentences of {study.corpus}; prepare the corpus that the study ran on"
            )
    greedy, beam = texts.values()
    statistics = metric.statistics(greedy, references)
    rouge = [
        score_summaries(lines, references) if study.validated_by == "rouge" else None
        for lines in (greedy, beam)
    ]
    return _Scored(
        files.read_facts(),
        test,
        score_translations(greedy, references),
        score_translations(beam, references),
        metric.score(statistics.sum(axis=0)),
        resampled(statistics, metric.score, chosen),
        *rouge,
    )


def _over_seeds(scored: Sequence[_Scored]) -> list[list[_Scored]]:
    groups: dict[Any, list[_Scored]] = {}
    for one in scored:
        groups.setdefault((one.facts.student, one.facts.method, one.test), []).append(one)
    return list(groups.values())


def _seeds(group: Sequence[_Scored]) -> list[int]:
    return [one.facts.seed for one in group if one.facts.seed is not None]


def _row(
    group: Sequence[_Scored],
    scored: Sequence[_Scored],
    baselines: Mapping[str, Mapping[str, str]],
    seed: Any,
) -> dict[str, Any]:
    """One row: a cell on a split, or the mean of a group that differs by seed alone."""
    facts, test = group[0].facts, group[0].test
    resamples = mean_over([one.resamples_R for one in group])
    low, high = interval(resamples)
    seconds = [one.facts.train_seconds for one in group if one.facts.train_seconds is not None]
    return {
        "method": facts.method,
        "student": facts.student,
        "seed": seed,
        "test": test,
        "metric": _mean([one.value for one in group]),
        "bleu_greedy": _mean([one.greedy.bleu for one in group]),
        "bleu_beam5": _mean([one.beam.bleu for one in group]),
        "chrf": _mean([one.greedy.chrf for one in group]),
        **_rouge([one.rouge for one in group]),
        **_rouge([one.rouge_beam for one in group], "_beam5"),
        "ci_low": low,
        "ci_high": high,
        **_compared(group, scored, baselines.get(facts.method, {})),
        "parameters": facts.parameters,
        "greedy_sentences_per_s": _mean([x.facts.greedy_sentences_per_s[test] for x in group]),
        "train_seconds": _mean(seconds) if seconds else None,
    }


def _rouge(found: Sequence[Rouge | None], which: str = "") -> dict[str, float]:
    known = [one for one in found if one is not None]
    kinds = ("rouge1", "rouge2", "rougeL") if known else ()
    return {f"{kind}{which}": _mean([getattr(one, kind) for one in known]) for kind in kinds}


def _compared(
    group: Sequence[_Scored], scored: Sequence[_Scored], baselines: Mapping[str, str]
) -> dict[str, float | None]:
    """Difference to each baseline, and the p-value of it.

    None for the baseline itself and the teacher, and where the baseline lacks a seed.
    """
    found: dict[str, float | None] = {}
    for name in BASELINES:
        others = _baseline(group, scored, baselines.get(name))
        delta = p_value = None
        if others:
            ours, theirs = (mean_over([x.resamples_R for x in part]) for part in (group, others))
            delta = _mean([x.value for x in group]) - _mean([x.value for x in others])
            p_value = paired_p_value(ours, theirs, delta)
        found |= {f"delta_vs_{name}": delta, f"p_vs_{name}": p_value}
    return found


def _baseline(
    group: Sequence[_Scored], scored: Sequence[_Scored], label: str | None
) -> list[_Scored]:
    """The cells of that label that a group is compared with, seed by seed; empty for none."""
    facts, test = group[0].facts, group[0].test
    if facts.student is None or facts.method == label:
        return []
    seeds = _seeds(group)
    others = [
        one
        for one in scored
        if (one.facts.method, one.facts.student, one.test) == (label, facts.student, test)
        and one.facts.seed in seeds
    ]
    return others if len(others) == len(group) else []


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
