"""What is learnt from which rows: the sections ``loss``, ``mixing`` and ``pool`` of a run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from student_trainer.methods import Divergence, Payload


class Section(BaseModel):
    """A part of a configuration: cannot be changed, and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LossConfig(Section):
    """How the student is compared with its targets.

    Attributes:
        label_smoothing: of cross-entropy on references.
        divergence: between teacher and student, under methods that leave it open.
        jsd_beta: of ``jsd``; 0 is the forward KL, 1 the reverse KL.
        skew_alpha: of ``skew-kl`` and ``reverse-skew-kl``.
        payload: what the teacher is asked for; unset: the cheapest that feeds the loss.
        top_k: candidates in the teacher's distribution ("+ Full", approximated), or of the student
            under payload ``candidates``.
        tail: ``bucket`` keeps the rest of the vocabulary as one class, ``renormalised`` spreads
            its mass over the teacher's candidates (the published code's top-k option).
        temperature: of the teacher's distribution.
        student_temperature: of the student's, which is compared with it.
        teacher_labels_on_data_rows: under ``imitkd`` rows that keep their reference take the
            teacher's arg-max too; the published code leaves them their own labels.
    """

    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    divergence: Divergence = "forward-kl"
    jsd_beta: float = Field(0.5, ge=0.0, le=1.0)
    skew_alpha: float = Field(0.1, ge=0.0, lt=1.0)
    payload: Payload | None = None
    top_k: int = Field(64, ge=1)
    tail: Literal["bucket", "renormalised"] = "bucket"
    temperature: float = Field(1.0, gt=0)
    student_temperature: float = Field(1.0, gt=0)
    teacher_labels_on_data_rows: bool = False


class MixingConfig(Section):
    """Probability beta that a row keeps its reference: ``schedule`` or ``lambda``.

    Attributes:
        schedule: how beta falls with t / N; ``exponential`` where nothing is said.
        base: of ``exponential``: beta = base ** (-t / N).
        final: of ``linear``: beta falls from 1 to it.
        value: of ``constant``.
        warmup: share of the run with beta = 1 before the schedule begins.
        lambda_: GKD's share of student-written rows: beta = 1 - lambda throughout.
    """

    schedule: Literal["exponential", "linear", "reverse-sigmoid", "constant"] | None = None
    base: float = Field(200.0, ge=1.0)
    final: float = Field(0.005, ge=0.0, le=1.0)
    value: float = Field(1.0, ge=0.0, le=1.0)
    warmup: float = Field(0.0, ge=0.0, lt=1.0)
    lambda_: float | None = Field(None, alias="lambda", ge=0.0, le=1.0)

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("schedule") is None and data.get("lambda") is None:
            return data | {"schedule": "exponential"}
        return data

    @model_validator(mode="after")
    def _one(self) -> MixingConfig:
        if self.lambda_ is None:
            return self
        unused = "lambda is the student's share throughout, and {} would go unused; set {}"
        if self.schedule is not None:
            raise ValueError(unused.format(f"schedule {self.schedule}", "one of them to null"))
        if self.warmup:
            raise ValueError(unused.format(f"warmup {self.warmup:g}", "it to 0 or lambda to null"))
        return self

    @property
    def keeps_no_reference(self) -> bool:
        """Whether every row of the run is replaced by the student's text."""
        never = self.schedule == "constant" and self.value == 0.0 and self.warmup == 0.0
        return self.lambda_ == 1.0 or never


class PoolConfig(Section):
    """Student-written rows kept at the learner beyond their batch, labels and all.

    Attributes:
        rows: at most so many; the oldest go first.
        fresh: of ``replay``: share of the student's rows written anew at the first step; it rises
            linearly to 1 at the last, the others are drawn from the pool.
        confidence: of ``aggregation``: a student's sentence counts only where the probability of
            the teacher's arg-max, averaged over it, is above this; else the row keeps its data.
    """

    rows: int = Field(8192, ge=1)
    fresh: float = Field(0.5, gt=0.0, le=1.0)
    confidence: float = Field(0.65, ge=0.0, lt=1.0)
