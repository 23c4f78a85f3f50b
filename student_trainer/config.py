"""The configuration of a training run: one frozen object, validated where it is built.

Read from YAML with ``key=value`` overrides; unknown keys are refused, and what was resolved is
saved with the run. Paths are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from seq2seq.errors import UserError
from seq2seq.metrics import Metric
from seq2seq.model import describe
from student_trainer.config_checks import check_processes, check_routes, check_store
from student_trainer.learning_checks import check_loss, check_mixing
from student_trainer.learning_config import LossConfig, MixingConfig, PoolConfig, Section
from student_trainer.methods import (
    METHODS,
    UNSCHEDULED,
    Method,
    MethodSpec,
    Payload,
    effective_divergence,
    payloads_for,
)
from student_trainer.source_config import CorpusConfig, TeacherConfig, TeacherRevision
from student_trainer.yaml_files import apply_override, read_mapping

# The sections of what is learnt, and from what, are handed out under this module's name.
__all__ = [
    "BatchConfig",
    "CorpusConfig",
    "InitialiseConfig",
    "LimitConfig",
    "LossConfig",
    "Method",
    "MixingConfig",
    "OptimiserConfig",
    "PoolConfig",
    "Precision",
    "RolloutConfig",
    "RunConfig",
    "TeacherConfig",
    "ValidationConfig",
    "VocabularyConfig",
    "dump_config",
    "load_config",
    "make_config",
]

Precision = Literal["fp32", "bf16"]


class VocabularyConfig(Section):
    """Where the student's vocabulary comes from; one of three.

    Attributes:
        from_: a model directory whose tokenizer is used.
        served: take the tokenizer of the teacher that answers, over the wire.
        size: train a new joint vocabulary of so many pieces.
    """

    from_: Path | None = Field(None, alias="from")
    served: bool = False
    size: int | None = Field(None, ge=16)

    @model_validator(mode="after")
    def _one(self) -> VocabularyConfig:
        if (self.from_ is not None) + self.served + (self.size is not None) != 1:
            raise ValueError(
                "give either 'from' (a model directory), 'served: true' (the teacher's own) or "
                "'size' (train a new one)"
            )
        return self


class InitialiseConfig(Section):
    """Another model to start from: the whole of it, or chosen layers; embeddings come along.

    Attributes:
        from_: a model directory of the same width and vocabulary.
        encoder_layers: for each encoder layer of the new model, the layer it copies (from 0); an
            empty list leaves them all as they are drawn; unset: all, each from its like.
        decoder_layers: likewise for the decoder.
    """

    from_: Path = Field(alias="from")
    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None


class LimitConfig(Section):
    """Longest output: min(ratio * source ids + offset, cap) ids."""

    ratio: float = Field(2.0, ge=0)
    offset: int = Field(10, ge=0)
    cap: int = Field(128, ge=1)


class RolloutConfig(Section):
    """How the student writes and how far ahead of the learner (staleness by rule).

    Batch i is written by version max(0, pool * floor(i / pool) - lag), a version being a number
    of optimiser steps.

    Attributes:
        engine: ``own``, or ``ctranslate2`` (optional package): greedy rollouts of a Transformer on
            CPUs in about half the time, the same but where two tokens are as good as equal.
        quarantine: shards that may be left out, as they kill the workers that run them, before the
            run stops.
    """

    decoding: Literal["greedy", "sample"] = "greedy"
    engine: Literal["own", "ctranslate2"] = "own"
    top_k: int = Field(5, ge=0)
    temperature: float = Field(1.0, gt=0)
    pool: int = Field(1, ge=1)
    lag: int = Field(0, ge=0)
    quarantine: int = Field(2, ge=0)
    limit: LimitConfig = LimitConfig()

    @model_validator(mode="after")
    def _possible(self) -> RolloutConfig:
        if self.engine == "ctranslate2" and self.decoding != "greedy":
            raise ValueError("engine ctranslate2 writes greedily; use engine own to sample")
        return self


class BatchConfig(Section):
    """A batch is bounded by sentences, padded tokens, or both, and cut into shards.

    Attributes:
        accumulate: learn shard by shard and add up the gradients: the same step (dropout's masks
            aside) in the memory of one shard.
    """

    sentences: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    shards: int = Field(1, ge=1)
    accumulate: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> BatchConfig:
        if self.sentences is None and self.tokens is None:
            raise ValueError("give 'sentences', 'tokens' or both")
        return self


class OptimiserConfig(Section):
    """AdamW with warm-up.

    Attributes:
        steps: optimiser steps of the run (N of the schedules).
        schedule: after the warm-up ``inverse-sqrt`` (Noam), ``linear`` or ``cosine`` to
            ``final_share`` of the peak at the last step, or ``constant``.
        cooldown: share of the steps, at the end, over which the rate falls linearly to 0 besides.
        clip: largest gradient norm.
        average: decay of the exponential moving average that is evaluated and saved; 0: none.
    """

    steps: int = Field(ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup: int = Field(100, ge=0)
    schedule: Literal["inverse-sqrt", "linear", "cosine", "constant"] = "inverse-sqrt"
    final_share: float = Field(0.0, ge=0.0, le=1.0)
    cooldown: float = Field(0.0, ge=0.0, le=1.0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    average: float = Field(0.0, ge=0, lt=1)


class ValidationConfig(Section):
    """When and how the student is evaluated; the best one on the validation split is kept.

    Attributes:
        metric: what is best: ``bleu``, or for summaries ``rouge``, the mean of ROUGE-1, -2 and -L.
        every: steps between two evaluations; the last step is always evaluated.
        sentences: the first so many validation pairs.
        patience: evaluations without a new best before the run ends early; 0: never.
    """

    metric: Metric = "bleu"
    every: int = Field(200, ge=1)
    sentences: int = Field(1000, ge=1)
    patience: int = Field(0, ge=0)


class RunConfig(Section):
    """A training run.

    Attributes:
        runtime: ``ray``: workers and learner are processes; ``inline``: all in one, without Ray.
        device: of the learner, ``cpu`` or ``cuda``; workers write on the CPU.
        deterministic: only kernels that repeat bit by bit. The same losses come out of every
            runtime and number of workers where the teacher is served deterministically too.
        workers: rollout actors; what is trained does not depend on their number.
        workers_at_start: begin when so many are ready, and let the rest join while the run is on,
            as the Ray cluster gets room for them; unset: wait for all.
        room_timeout_s: how long a Ray cluster may be too small for those without growing.
        precision: of the learner's products, ``fp32`` or ``bf16``; for GPUs, on a CPU of this size
            bf16 is the slower one.
        worker_threads, learner_threads: pinned, since results depend on them.
        learner_processes: that share each batch of the learner, with ``learner_threads`` and a
            device each.
        checkpoint_every: steps between two checkpoints.
        metrics_address: host:port where Prometheus may ask how the run stands; unset: nowhere.
    """

    name: str = Field(min_length=1)
    method: Method
    seed: int = Field(1, ge=0)
    runtime: Literal["ray", "inline"] = "ray"
    device: str = "cpu"
    precision: Precision = "fp32"
    deterministic: bool = False
    workers: int = Field(1, ge=1)
    workers_at_start: int | None = Field(None, ge=1)
    room_timeout_s: float = Field(600.0, gt=0)
    worker_threads: int = Field(1, ge=1)
    learner_threads: int = Field(1, ge=1)
    learner_processes: int = Field(1, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    metrics_address: str | None = None
    corpus: CorpusConfig
    vocabulary: VocabularyConfig
    model: dict[str, Any]
    initialise: InitialiseConfig | None = None
    loss: LossConfig = LossConfig()
    mixing: MixingConfig = MixingConfig()
    pool: PoolConfig = PoolConfig()
    rollout: RolloutConfig = RolloutConfig()
    batch: BatchConfig
    optimiser: OptimiserConfig
    teacher: TeacherConfig | None = None
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="before")
    @classmethod
    def _half_and_half(cls, data: Any) -> Any:
        """A method without a schedule has a lambda of a half where nothing else is said."""
        mixing = data.get("mixing") or {} if isinstance(data, dict) else None
        if not isinstance(mixing, dict) or data.get("method") not in UNSCHEDULED:
            return data
        if mixing.get("lambda") is None and mixing.get("schedule") is None:
            return data | {"mixing": mixing | {"lambda": 0.5}}
        return data

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.asks_teacher and self.teacher is None:
            raise ValueError(f"method {self.method} needs a 'teacher' section with an address")
        if self.spec.finished_student and self.initialise is None:
            raise ValueError(
                f"method {self.method} goes on from a finished student; name its directory with "
                "initialise.from"
            )
        check_loss(self)
        check_mixing(self)
        fixed = sorted(self.model.keys() & {"vocab_size", "pad_id", "eos_id", "start_id"})
        if fixed:
            raise ValueError(f"model.{fixed[0]} follows from the vocabulary; remove it")
        if self.workers_at_start is not None and self.workers_at_start > self.workers:
            raise ValueError(
                f"workers_at_start {self.workers_at_start} is more than workers {self.workers}"
            )
        check_processes(self)
        if self.vocabulary.served and self.teacher is None:
            raise ValueError("vocabulary.served needs a 'teacher' section with an address")
        if self.teacher is not None and self.teacher.store is not None:
            check_store(self)
        if self.teacher is not None and self.teacher.routes:
            check_routes(self)
        return self

    def pinned_to(self, revision: TeacherRevision) -> RunConfig:
        """The same run, in which every request names its teacher's revision."""
        if self.teacher is None or revision is None:
            return self
        teacher = self.teacher.model_copy(update={"revision": revision})
        return self.model_copy(update={"teacher": teacher})

    @property
    def spec(self) -> MethodSpec:
        """What the method is made of."""
        return METHODS[self.method]

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher scores rows during the run."""
        return self.spec.label != "token"

    @property
    def student_writes(self) -> bool:
        """Whether rows may be replaced by the student's own text."""
        return self.spec.mixed

    @property
    def workers_need_student(self) -> bool:
        """Whether workers hold the student: to write, or to name its own candidates."""
        return self.student_writes or (self.asks_teacher and self.payload == "candidates")

    @property
    def compared_by(self) -> str:
        """``argmax`` (L_opt), or the divergence that the student is compared by."""
        if self.spec.label == "argmax":
            return "argmax"
        loss = self.loss
        return effective_divergence(loss.divergence, loss.jsd_beta, loss.skew_alpha)

    @property
    def payload(self) -> Payload:
        """What the teacher is asked for about each position."""
        return self.loss.payload or payloads_for(self.compared_by)[0]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file with what it extends, apply ``a.b=value`` overrides, validate.

    Raises:
        UserError: unreadable file, malformed override, unknown key, value out of range.
    """
    data = read_mapping(path)
    for override in overrides:
        apply_override(data, override)
    return make_config(data, str(path))


def make_config(data: dict[str, Any], origin: str = "configuration") -> RunConfig:
    """Validate plain values.

    Raises:
        UserError: all faults on one line, each with the value given.
    """
    try:
        return RunConfig(**data)
    except (ValidationError, TypeError) as error:
        text = describe(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{origin}: {text}") from error


def dump_config(config: RunConfig) -> str:
    """YAML of a resolved configuration; ``load_config`` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False)
