"""The corpus as the run will meet it: lines, lengths, unknown pieces, what splits share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from imitkd.corpora.cleaning import leak_key
from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, error, ok, warning
from seq2seq.corpus import Example, read_split
from student_trainer.references import require_references
from student_trainer.setup import validation_examples
from student_trainer.targets import training_examples
from student_trainer.training_data import build_limits, make_data

FEW_VALIDATION = 100
LEFT_OUT_WARNING, LEFT_OUT_ERROR = 0.01, 0.2
UNKNOWN_WARNING, UNKNOWN_ERROR = 0.001, 0.05
OVERLAP_ERROR = 0.2


@dataclass(frozen=True)
class Rereading:
    """Sentences that are read anew each time they are gone through, never held all at once."""

    read: Callable[[], Iterator[Example]]

    def __iter__(self) -> Iterator[Example]:
        return self.read()


def lines(it: Examination) -> list[Finding]:
    """The splits can be read and have the references that the method and validation need."""
    config = it.config
    train = Rereading(lambda: training_examples(config))
    held_out = {
        name: examples
        for corpus, path in config.corpus.directories.items()
        for name, examples in _held_out(path, f"{corpus}/" if config.corpus.paths else "")
    }
    count = bare = 0
    for count, example in enumerate(require_references(config, train), 1):  # noqa: B007
        bare += not example.references
    validation = validation_examples(config)
    it.examples = {"train": train, **held_out}
    counts = {"train": count} | {split: len(found) for split, found in held_out.items()}
    facts = {"splits": counts, "train_without_references": bare, "validated": len(validation)}
    told = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    if bare:
        told += f"; {bare:,} training sentences have no reference, the student writes them all"
    findings = [ok(told, **facts)]
    if len(validation) < FEW_VALIDATION:
        findings.append(
            warning(
                f"the best student is chosen by BLEU on {len(validation)} sentences: noise",
                f"hold out {FEW_VALIDATION} or more, and look at validation.sentences",
            )
        )
    return findings


def _held_out(path: Path, prefix: str) -> Iterator[tuple[str, list[Example]]]:
    """The splits of a corpus that are not trained on, in the order of their names."""
    for split in sorted(f.stem for f in path.glob("*.jsonl") if f.stem != "train"):
        yield prefix + split, read_split(path, split)


def lengths(it: Examination) -> list[Finding]:
    """Few sentences are longer than the student reads, writes and is allowed to write."""
    it.need("vocabulary", "lines")
    place = it.open.enter_context(tempfile.TemporaryDirectory(prefix="doctor-"))
    it.data = make_data(it.config, it.vocabulary, Path(place))
    split = it.data.split
    total = len(split) + split.fit.left_out
    quantiles = {
        what: np.quantile(found, [0.5, 0.95, 1.0]).astype(int).tolist()
        for what, found in (("source", split.source_lengths), ("target", split.target_lengths))
    }
    facts = {"left_out": split.fit.left_out, "of": total} | {
        f"{what}_ids_median_p95_longest": found for what, found in quantiles.items()
    }
    shown = ", ".join(f"{what} {m}/{p}/{x}" for what, (m, p, x) in quantiles.items())
    findings = [_left_out(it, total, f"ids (median/95 %/longest): {shown}", facts)]
    if it.config.student_writes and split.has_targets:
        findings += _cut_short(it)
    return findings


def _left_out(it: Examination, total: int, told: str, facts: dict[str, object]) -> Finding:
    split = it.data.split
    share = split.fit.left_out / total
    if not split.fit.left_out:
        return ok(f"{told}; none left out", **facts)
    source, target = build_limits(it.config)
    said = f"{told}; {split.fit.left_out:,} of {total:,} sentences are longer and left out"
    remedy = (
        f"raise model.max_source_length ({source}) or model.max_target_length ({target}), or cut "
        "long lines"
    )
    if share <= LEFT_OUT_WARNING:
        return ok(said, **facts)
    level = error if share > LEFT_OUT_ERROR else warning
    return level(said, remedy, **facts)


def _cut_short(it: Examination) -> list[Finding]:
    """References that the student may not write to their end under ``rollout.limit``."""
    limit, split = it.config.rollout.limit, it.data.split
    allowed = np.floor(limit.ratio * split.source_lengths) + limit.offset
    share = float((split.target_lengths > np.minimum(allowed, limit.cap)).mean())
    if share <= LEFT_OUT_WARNING:
        return []
    return [
        warning(
            f"{share:.1%} of the references are longer than rollout.limit lets the student write, "
            "so it cannot learn to end them",
            "raise rollout.limit.ratio, .offset or .cap",
            references_over_the_limit=share,
        )
    ]


def pieces(it: Examination) -> list[Finding]:
    """The vocabulary has pieces for the text."""
    it.need("lengths")
    rate = it.data.split.unknown_rate()
    told = f"{rate:.3%} of all training ids are unknown"
    if rate <= UNKNOWN_WARNING:
        return [ok(told, rate=rate)]
    remedy = "is the vocabulary made for these languages? clean the text, or take another"
    level = error if rate > UNKNOWN_ERROR else warning
    return [level(told, remedy, rate=rate)]


def overlap(it: Examination) -> list[Finding]:
    """Held-out sources do not occur in the training text."""
    it.need("lines")
    held_out = {
        split: [leak_key(e.source) for e in examples]
        for split, examples in it.examples.items()
        if split != "train"
    }
    asked = set(chain.from_iterable(held_out.values()))
    found = {key for e in it.examples["train"] if (key := leak_key(e.source)) in asked}
    findings = []
    for split, keys in held_out.items():
        shared = sum(key in found for key in keys)
        if shared:
            share = shared / len(keys)
            level = error if share > OVERLAP_ERROR else warning
            findings.append(
                level(
                    f"{shared:,} of {len(keys):,} {split} sources also occur in train (case, "
                    "punctuation and numbers not counted)",
                    "have splits cut that share no text: `imitkd data prepare` with --validation "
                    "and --test",
                    split=split,
                    shared=shared,
                    of=len(keys),
                )
            )
    return findings or [ok("no held-out source occurs in train")]
