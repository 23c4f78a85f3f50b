"""Sentences on which methods differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imitkd.report.reading import Run, Study
from imitkd.report.trainings import run_labels
from seq2seq.corpus import Example

SHOWN = 8
# A long document is shown by its beginning.
_LONGEST = 600


@dataclass(frozen=True)
class Comparison:
    """One source, its references, and what each method wrote; None: not at hand."""

    source: str | None
    references: tuple[str, ...]
    texts: list[tuple[str, str]]


def of_study(study: Study, test: str, shown: int = SHOWN) -> list[Comparison]:
    """The sentences of a split whose texts are furthest apart, in the order of the corpus."""
    texts = _texts(study, test)
    if len(texts) < 2:
        return []
    count = min(map(len, texts.values()))
    given = study.examples.get(test, [])
    known: Sequence[Example | None] = given[:count] if len(given) >= count else [None] * count
    spreads = [_spread(i, texts, known[i]) for i in range(count)]
    chosen = sorted(sorted(range(count), key=lambda i: -spreads[i])[:shown])
    return [
        Comparison(
            _cut(known_i.source) if (known_i := known[i]) else None,
            known_i.references if known_i else (),
            [(label, lines[i]) for label, lines in texts.items()],
        )
        for i in chosen
        if spreads[i] > 0
    ]


def _texts(study: Study, test: str) -> dict[str, list[str]]:
    """What each method wrote, of its first seed."""
    found: dict[str, list[str]] = {}
    for cell in study.cells:
        if test in cell.texts:
            found.setdefault(cell.label, cell.texts[test])
    return found


def _spread(row: int, texts: Mapping[str, Sequence[str]], example: Example | None) -> float:
    """How far the best text is from the worst by sentence chrF, in percent.

    Against the references; where they are not at hand, against the first method's text.
    """
    from sacrebleu import sentence_chrf

    written = [lines[row] for lines in texts.values()]
    references = list(example.references) if example and example.references else written[:1]
    scores = [float(sentence_chrf(text, references).score) for text in written]
    return max(scores) - min(scores)


def of_runs(runs: Sequence[Run], shown: int = SHOWN) -> list[Comparison]:
    """The validation sentences that runs keep with their best evaluation, side by side."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        best = [v for v in run.validations if v["best"]]
        for source, text, reference in best[-1]["examples"] if best else []:
            found.setdefault(source, (reference, []))[1].append((label, text))
    return [
        Comparison(_cut(source), (reference,), texts)
        for source, (reference, texts) in list(found.items())[:shown]
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"
