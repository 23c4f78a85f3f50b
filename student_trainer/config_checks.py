"""Whether a run fits where its scores and its processes are: a score store, devices, routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student_trainer.config import RunConfig


def check_store(config: RunConfig) -> None:
    """A score store answers about fixed pairs alone.

    Raises:
        ValueError: others would be asked about.
    """
    if config.asks_teacher and config.payload == "candidates":
        raise ValueError(
            "a teacher.store holds the teacher's candidates, and loss.divergence "
            f"{config.loss.divergence} asks for the student's; give teacher.address instead"
        )
    if config.student_writes:
        raise ValueError(
            f"method {config.method} has the student write new targets, which no teacher.store "
            "holds; give teacher.address instead, or use method word-kd"
        )
    if config.corpus.path is None:
        raise ValueError("a teacher.store is of one corpus.path; give teacher.address instead")
    if config.asks_teacher and config.corpus.source_candidates > 1:
        raise ValueError(
            f"corpus.source_candidates={config.corpus.source_candidates} draws other sources "
            "every epoch, and a teacher.store holds one of each; set it to 1 or give "
            "teacher.address instead"
        )


def check_processes(config: RunConfig) -> None:
    """The learner's processes have rows and devices of their own.

    Raises:
        ValueError: they have not.
    """
    count, sentences = config.learner_processes, config.batch.sentences
    if sentences is not None and count > sentences:
        raise ValueError(
            f"learner_processes {count} cannot share batch.sentences {sentences}; lower the one or "
            "raise the other"
        )
    if count > 1 and ":" in config.device:
        raise ValueError(
            f"device {config.device} is one device, and learner_processes {count} take one each; "
            "set device=cuda, or learner_processes=1"
        )


def check_routes(config: RunConfig) -> None:
    """Every corpus has a teacher, and routes and revisions are of corpora that there are.

    Raises:
        ValueError: one has none, or a name is no corpus of the run.
    """
    teacher, names = config.teacher, config.corpus.paths or {}
    assert teacher is not None
    pinned = teacher.revision if isinstance(teacher.revision, dict) else {}
    for section, given in (("routes", teacher.routes), ("revision", pinned)):
        unknown = sorted(given.keys() - names.keys())
        if unknown:
            raise ValueError(
                f"teacher.{section} names {unknown[0]!r}, which is no corpus of corpus.paths "
                f"({', '.join(names) or 'not given'})"
            )
    missing = [name for name in names if name not in teacher.routes]
    if missing and teacher.address is None:
        raise ValueError(
            f"corpus {missing[0]!r} has no teacher; name one in teacher.routes, or give "
            "teacher.address for all that have none of their own"
        )
    if config.asks_teacher and config.payload == "hidden":
        raise ValueError(
            "loss.payload hidden goes with one teacher, whose output projection the learner has; "
            "use top-k or full with teacher.routes"
        )
