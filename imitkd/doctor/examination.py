"""Running checks one after the other over what they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imitkd.doctor.findings import Finding, Severity, error, of_exception, skipped
from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from teacher_service.errors import TeacherError

if TYPE_CHECKING:
    from seq2seq.checkpoint import ModelDirectory
    from seq2seq.corpus import Example
    from seq2seq.vocabulary import Vocabulary
    from student_trainer.sizing import Stages
    from student_trainer.teachers import AnyTeacher
    from student_trainer.training_data import TrainingData
    from teacher_service.client import TeacherClient
    from teacher_service.codec import ModelInfo
    from teacher_service.replies import ReplicaReport
    from teacher_service.score_store.stored_teacher import StoredTeacher

_log = logging.getLogger(__name__)


class CannotRun(Exception):
    """A check needs what an earlier one did not come by."""


@dataclass(frozen=True)
class Met:
    """A teacher that was met, and what it says of itself.

    Attributes:
        corpus: whose rows it scores, where each corpus has a teacher of its own; else empty.
        reports: of each replica; none where a store is read.
    """

    corpus: str
    teacher: TeacherClient | StoredTeacher
    info: ModelInfo
    reports: list[ReplicaReport]

    def named(self, finding: Finding) -> Finding:
        """The finding, with the corpus before its message."""
        if not self.corpus:
            return finding
        return replace(finding, message=f"{self.corpus}: {finding.message}")


@dataclass
class Examination:
    """A configuration under examination, and what its checks have come by so far.

    Attributes:
        output: run directory that `imitkd train` would use.
        teacher_directory: the teacher's model directory, where the user names it.
        patience_s: how long a teacher that does not answer is waited for.
        probe_s: how long real steps are tried out.
        target_rate: sentences/s to be sized for; None: what one learner makes.
        open: closed when the examination ends.
        teacher: by ``teacher``: client or store, or the clients by corpus.
        met: by ``teacher``: each of them.
        vocabulary: by ``vocabulary``. examples: by ``lines``, every split.
        data: by ``lengths``. local: by ``directory``. stages, sentences_a_batch: by ``duration``.
    """

    config: RunConfig
    output: Path
    teacher_directory: Path | None = None
    patience_s: float = 10.0
    probe_s: float = 20.0
    target_rate: float | None = None
    open: ExitStack = field(default_factory=ExitStack)
    severities: dict[str, Severity] = field(default_factory=dict)
    teacher: AnyTeacher = field(init=False)
    met: list[Met] = field(init=False)
    vocabulary: Vocabulary = field(init=False)
    examples: Mapping[str, Iterable[Example]] = field(init=False)
    data: TrainingData = field(init=False)
    local: ModelDirectory = field(init=False)
    stages: Stages = field(init=False)
    sentences_a_batch: float = field(init=False)

    @property
    def info(self) -> ModelInfo:
        """What the teacher says of itself, or the first of several."""
        return self.met[0].info

    @property
    def scores(self) -> bool:
        """Whether the teacher scores rows during the run."""
        return self.config.asks_teacher

    @property
    def meets_teacher(self) -> bool:
        """Whether the run needs a teacher at all, be it for its tokenizer."""
        return self.scores or self.config.vocabulary.served

    def need(self, *checks: str) -> None:
        """Go on only if these checks came by what they were to.

        Raises:
            CannotRun: one did not; names it.
        """
        for name in checks:
            severity = self.severities.get(name, Severity.skipped)
            if severity in (Severity.skipped, Severity.error):
                ended = "failed" if severity is Severity.error else "was skipped"
                raise CannotRun(f"cannot run: '{name}' {ended}")


@dataclass(frozen=True)
class Check:
    """One check and its name on the command line."""

    name: str
    run: Callable[[Examination], list[Finding]]


def examine(
    examination: Examination,
    checks: Sequence[Check],
    skip: Collection[str] = (),
    begins: Callable[[str], None] = lambda name: None,
) -> Iterator[Finding]:
    """Run the checks in order; connections are closed at the end.

    Args:
        skip: names of checks to leave out.
        begins: told the name of each check before it runs.

    Raises:
        UserError: ``skip`` names something that is no check.
    """
    unknown = sorted(set(skip) - {check.name for check in checks})
    if unknown:
        known = ", ".join(check.name for check in checks)
        raise UserError(f"there is no check '{unknown[0]}'; the checks are {known}")
    with examination.open:
        for check in checks:
            begins(check.name)
            found = [skipped("left out")] if check.name in skip else _run(check, examination)
            worst = max(found, key=lambda f: list(Severity).index(f.severity)).severity
            examination.severities[check.name] = worst
            yield from (replace(finding, check=check.name) for finding in found)


def _run(check: Check, examination: Examination) -> list[Finding]:
    try:
        return check.run(examination)
    except CannotRun as reason:
        return [skipped(str(reason))]
    except (UserError, TeacherError) as fault:
        return [of_exception(fault)]
    except Exception as fault:
        # One check that breaks must not keep the others from being told.
        _log.debug("check %s", check.name, exc_info=True)
        return [error(f"the check itself failed: {type(fault).__name__}: {fault}", "report it")]
