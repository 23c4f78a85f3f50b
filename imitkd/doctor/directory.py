"""The teacher's own model directory, where it is at hand."""

from __future__ import annotations

from pathlib import Path

from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, error, ok, skipped
from seq2seq.checkpoint import load_model_directory
from seq2seq.errors import UserError


def at_hand(it: Examination) -> list[Path]:
    """Directories that may be the teacher's: the one named, then those of the configuration."""
    initialise = it.config.initialise
    named = (
        it.teacher_directory,
        it.config.vocabulary.from_,
        initialise.from_ if initialise is not None else None,
    )
    return list(dict.fromkeys(path for path in named if path is not None))


def find(it: Examination) -> list[Finding]:
    """Load the directory whose revision is the served one."""
    it.need("teacher", "replicas")
    if len(it.met) > 1:
        return [
            skipped(
                "several teachers answer, and one directory is compared",
                "examine each with corpus.path and teacher.address of its own",
            )
        ]
    for path in at_hand(it):
        try:
            found = load_model_directory(path)
        except UserError:
            if path == it.teacher_directory:
                raise
            continue
        if found.revision == it.info.revision:
            it.local = found
            return [ok(f"{path} is what is served")]
        if path == it.teacher_directory:
            return [
                error(
                    f"{path} is {found.revision}, and {it.info.revision} answers",
                    "name the directory that is served, or serve this one",
                )
            ]
    return [
        skipped(
            "the teacher's directory is not at hand, so its scores are taken on trust",
            "name it: --teacher-directory DIR",
        )
    ]
