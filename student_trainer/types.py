"""What travels between driver, rollout workers and learner."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from seq2seq.data import Fit
from teacher_service.candidates import TokenTable
from teacher_service.codec import PayloadRequest, ScoreResult

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "dict[str, Tensor]"


class Teacher(Protocol):
    """The part of the teacher client that rollouts need."""

    def score(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        payload: PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Sequence[TokenTable] | None = None,
    ) -> ScoreResult:
        """The teacher's distribution at every target position.

        Args:
            candidates: of payload CANDIDATES alone.
        """


@dataclass(frozen=True)
class WorkerReady:
    """A rollout worker's process is ready for shards.

    Attributes:
        fit: how many training sentences were longer than the student's limits.
        plan: digest of its batches (``BatchPlan.digest``): the same at every worker of a run.
        node: machine of the cluster it runs on, as Ray names it.
        host: that machine's own name.
    """

    pid: int
    fit: Fit
    plan: str = ""
    node: str = ""
    host: str = ""


@dataclass(frozen=True)
class ShardTask:
    """Shard j of batch i: what a worker is asked for.

    Attributes:
        version: optimiser steps behind the weights that must write it.
        beta: probability that a row keeps its reference.
    """

    batch: int
    shard: int
    version: int
    beta: float

    def __str__(self) -> str:
        return f"batch {self.batch} shard {self.shard}"


@dataclass(frozen=True)
class Ragged:
    """Id sequences laid end to end: two arrays travel between processes, not one a row.

    Attributes:
        ids_P: int32, the rows one after the other.
        lengths_B: int32, how many ids each row has.
    """

    ids_P: np.ndarray
    lengths_B: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> Ragged:
        """Lay rows end to end."""
        lengths = np.fromiter((len(r) for r in rows), np.int32, len(rows))
        ids = np.concatenate([np.asarray(r, np.int32) for r in rows]) if len(rows) else lengths
        return cls(ids, lengths)

    def rows(self) -> list[np.ndarray]:
        """Views of the rows."""
        ends = np.cumsum(self.lengths_B).tolist()
        return [
            self.ids_P[end - length : end]
            for end, length in zip(ends, self.lengths_B.tolist(), strict=True)
        ]

    def only(self, kept_B: np.ndarray) -> Ragged:
        """The rows where ``kept_B`` (bool) is true."""
        return Ragged(self.ids_P[np.repeat(kept_B, self.lengths_B)], self.lengths_B[kept_B])

    def __len__(self) -> int:
        return len(self.lengths_B)


@dataclass(frozen=True)
class TeacherLabels:
    """The teacher's distributions at the packed positions of the rows it scored.

    Attributes:
        positions: int64 ``[Q]``, which of the shard's P packed positions were scored.
        ids_QK: int32 candidates, most probable first (K = 1 for the arg-max alone); K = 0 where the
            whole distribution is there or follows from the states.
        log_probs_QK: float32, of the candidates or of the whole vocabulary.
        tail_log_mass_Q: float32 log of the mass outside the candidates, -inf where there is none.
        token_log_probs_Q: float32 log-probability of each target token; None: not kept.
        states_QD: float32 final states of the teacher's decoder, if those were asked for.
    """

    positions: np.ndarray
    ids_QK: np.ndarray
    log_probs_QK: np.ndarray
    tail_log_mass_Q: np.ndarray
    token_log_probs_Q: np.ndarray | None = None
    states_QD: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """What there is at each scored position, by name: all fields but ``positions``."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "positions"}
        return {name: array for name, array in named.items() if array is not None}

    def only(self, kept_P: np.ndarray) -> TeacherLabels | None:
        """Those at the packed positions where ``kept_P`` (bool) is true; None where none was
        scored."""
        chosen = kept_P[self.positions]
        if not chosen.any():
            return None
        place = np.cumsum(kept_P) - 1
        arrays = {name: array[chosen] for name, array in self.arrays().items()}
        return TeacherLabels(positions=place[self.positions[chosen]], **arrays)


@dataclass(frozen=True)
class ScoredShard:
    """Shard j of batch i, written and scored.

    Attributes:
        sources, targets: B rows each; a target ends with the end symbol only if it was written.
        from_student: bool ``[B]``, rows whose target the student wrote.
        labels: None where the method asks no teacher.
        scored_sentences: rows the teacher was asked about.
        generate_s, score_s: seconds spent in each stage.
        replayed: rows left to the learner, which draws them from those written before.
        teacher_s: of the forward passes at the teacher, as it says.
        digest: of the rows' numbers (:func:`rows_digest`).
        revision: of the teacher that scored, or of all that did; None where none was asked.
        quarantined: left out, as it killed its workers; without rows.
    """

    batch: int
    shard: int
    version: int
    beta: float
    sources: Ragged
    targets: Ragged
    from_student: np.ndarray
    labels: TeacherLabels | None
    scored_sentences: int = 0
    generate_s: float = 0.0
    score_s: float = 0.0
    replayed: int = 0
    teacher_s: float = 0.0
    digest: str = ""
    revision: str | tuple[str, ...] | None = None
    quarantined: bool = False

    @classmethod
    def left_out(cls, task: ShardTask) -> ScoredShard:
        """What the learner gets in place of a shard that cannot be run."""
        none = Ragged.of([])
        return cls(
            batch=task.batch,
            shard=task.shard,
            version=task.version,
            beta=task.beta,
            sources=none,
            targets=none,
            from_student=np.zeros(0, dtype=bool),
            labels=None,
            quarantined=True,
        )

    def only(self, kept_B: np.ndarray) -> ScoredShard:
        """The shard with the rows where ``kept_B`` (bool) is true; what it says of the stages
        (counts, seconds, digest) stays that of all."""
        labels = self.labels
        if labels is not None:
            labels = labels.only(np.repeat(kept_B, self.targets.lengths_B))
        return replace(
            self,
            sources=self.sources.only(kept_B),
            targets=self.targets.only(kept_B),
            from_student=self.from_student[kept_B],
            labels=labels,
        )

    @property
    def positions(self) -> int:
        """Target positions P."""
        return len(self.targets.ids_P)


def rows_digest(rows: np.ndarray) -> str:
    """64 bits, in hexadecimal digits, of row numbers in their order."""
    return hashlib.blake2b(np.ascontiguousarray(rows, "<i8").tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class LearntShard:
    """What the ledger keeps of a shard.

    Attributes:
        rows: sentences learnt.
        digest, revision, quarantined: see :class:`ScoredShard`.
        attempts: how often it was handed to a worker.
        host: name of the machine that wrote it; empty where all is one process.
    """

    rows: int
    digest: str
    revision: str | tuple[str, ...] | None = None
    quarantined: bool = False
    attempts: int = 1
    host: str = ""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: optimiser steps done, this one included.
        version: the version that wrote the batch.
        loss: mean over all loss positions of the batch.
        scored_sentences, scored_positions: that the teacher was asked about.
        generate_s, score_s, teacher_s: summed over the batch's shards; ``learn_s`` of the step
            itself.
        shards: what was learnt, for the ledger.
        workers: ready by then; 0 where all is one process.
    """

    step: int
    version: int
    beta: float
    loss: float
    gradient_norm: float
    learning_rate: float
    sentences: int
    positions: int
    scored_sentences: int
    scored_positions: int
    student_share: float
    generate_s: float
    score_s: float
    learn_s: float
    replayed: int = 0
    teacher_s: float = 0.0
    shards: tuple[LearntShard, ...] = ()
    workers: int = 0


@dataclass(frozen=True)
class ValidationReport:
    """An evaluation of the student on the validation split; ROUGE where it is the metric."""

    step: int
    bleu: float
    chrf: float
    loss: float
    seconds: float
    best: bool
    rouge1: float | None = None
    rouge2: float | None = None
    rougeL: float | None = None
    examples: list[tuple[str, str, str]] = field(default_factory=list)
