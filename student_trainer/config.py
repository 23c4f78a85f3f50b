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
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from seq2seq.errors import UserError
from seq2seq.model import describe
from teacher_service.addresses import written_addresses
from teacher_service.errors import TeacherRefused

Method = Literal["vanilla", "word-kd", "imitkd", "imitkd-full"]
Precision = Literal["fp32", "bf16"]
IMITATION: tuple[Method, ...] = ("imitkd", "imitkd-full")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusConfig(_Section):
    """What to train on.

    Attributes:
        path: a prepared corpus directory.
        sentences: use only the first so many training pairs (the low-data setting).
        source_candidates: n-best size of source subword regularisation; 1 turns it off.
    """

    path: Path
    sentences: int | None = Field(None, ge=1)
    source_candidates: int = Field(1, ge=1)
    source_alpha: float = Field(0.2, gt=0)


class VocabularyConfig(_Section):
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


class InitialiseConfig(_Section):
    """Layers of another model to start from; the embeddings come along.

    Attributes:
        from_: a model directory of the same width and vocabulary.
        encoder_layers: for each encoder layer of the new model, the layer it copies (from 0).
        decoder_layers: likewise for the decoder.
    """

    from_: Path = Field(alias="from")
    encoder_layers: tuple[int, ...]
    decoder_layers: tuple[int, ...]


class LossConfig(_Section):
    """How the student is compared with its targets.

    Attributes:
        label_smoothing: of cross-entropy on references.
        top_k: candidates in the teacher's distribution ("+ Full", approximated).
        tail: ``bucket`` keeps the rest of the vocabulary as one class, ``renormalised`` spreads
            its mass over the candidates (the published code's top-k option).
        temperature: of the teacher's distribution.
        teacher_labels_on_data_rows: under ``imitkd`` rows that keep their reference take the
            teacher's arg-max too; the published code leaves them their own labels.
    """

    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    top_k: int = Field(64, ge=1)
    tail: Literal["bucket", "renormalised"] = "bucket"
    temperature: float = Field(1.0, gt=0)
    teacher_labels_on_data_rows: bool = False


class MixingConfig(_Section):
    """Probability beta that a row keeps its reference (docs/algorithm.md).

    Attributes:
        schedule: how beta falls with t / N.
        base: of ``exponential``: beta = base ** (-t / N).
        final: of ``linear``: beta falls from 1 to it.
        value: of ``constant``.
        warmup: share of the run with beta = 1 before the schedule begins.
    """

    schedule: Literal["exponential", "linear", "reverse-sigmoid", "constant"] = "exponential"
    base: float = Field(200.0, ge=1.0)
    final: float = Field(0.005, ge=0.0, le=1.0)
    value: float = Field(1.0, ge=0.0, le=1.0)
    warmup: float = Field(0.0, ge=0.0, lt=1.0)


class LimitConfig(_Section):
    """Longest output: min(ratio * source ids + offset, cap) ids."""

    ratio: float = Field(2.0, ge=0)
    offset: int = Field(10, ge=0)
    cap: int = Field(128, ge=1)


class RolloutConfig(_Section):
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


class BatchConfig(_Section):
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


class OptimiserConfig(_Section):
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


class TeacherConfig(_Section):
    """Where the teacher answers: from one or more addresses, or from a score store.

    Attributes:
        address: host:port, unix:path or file:/path of the scoring service; a list, or several with
            commas between, where replicas serve it.
        store: directory that `imitkd teacher score-corpus` wrote; nothing is served then.
        timeout_s: past it a call that found no teacher stops the run with everything saved.
        revision: the weights that must answer, all through the run; unset: those that answer when
            it begins.
        token_file: file with a bearer token.
        root_certificates: file with the authority that signed the service's certificate.
        client_certificate, client_key: files for a service that asks callers for a certificate.
    """

    address: tuple[str, ...] | None = None
    store: Path | None = None
    attempt_timeout_s: float = Field(60.0, gt=0)
    timeout_s: float = Field(300.0, gt=0)
    revision: str | None = None
    token_file: Path | None = None
    root_certificates: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @field_validator("address", mode="before")
    @classmethod
    def _several(cls, address: Any) -> Any:
        return [address] if isinstance(address, str) else address

    @field_validator("address")
    @classmethod
    def _written(cls, address: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if address is None else written_addresses(address)
        except TeacherRefused as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _one(self) -> TeacherConfig:
        # Not both: pairs that a store lacks would quietly go to the network.
        if (self.address is None) == (self.store is None):
            raise ValueError(
                "give either 'address' (a serving teacher) or 'store' (a score store); the other "
                "one may be null"
            )
        return self


class ValidationConfig(_Section):
    """When and how the student is evaluated; the best by validation BLEU is kept.

    Attributes:
        every: steps between two evaluations; the last step is always evaluated.
        sentences: the first so many validation pairs.
        patience: evaluations without a new best before the run ends early; 0: never.
    """

    every: int = Field(200, ge=1)
    sentences: int = Field(1000, ge=1)
    patience: int = Field(0, ge=0)


class RunConfig(_Section):
    """A training run.

    Attributes:
        runtime: ``ray``: workers and learner are processes; ``inline``: all in one, without Ray.
        device: of the learner, ``cpu`` or ``cuda``; workers write on the CPU.
        deterministic: only kernels that repeat bit by bit. The same losses come out of every
            runtime and number of workers where the teacher is served deterministically too.
        workers: rollout actors; what is trained does not depend on their number.
        precision: of the learner's products, ``fp32`` or ``bf16``; for GPUs, on a CPU of this size
            bf16 is the slower one.
        worker_threads, learner_threads: pinned, since results depend on them.
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
    worker_threads: int = Field(1, ge=1)
    learner_threads: int = Field(1, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    metrics_address: str | None = None
    corpus: CorpusConfig
    vocabulary: VocabularyConfig
    model: dict[str, Any]
    initialise: InitialiseConfig | None = None
    loss: LossConfig = LossConfig()
    mixing: MixingConfig = MixingConfig()
    rollout: RolloutConfig = RolloutConfig()
    batch: BatchConfig
    optimiser: OptimiserConfig
    teacher: TeacherConfig | None = None
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.method != "vanilla" and self.teacher is None:
            raise ValueError(f"method {self.method} needs a 'teacher' section with an address")
        fixed = sorted(self.model.keys() & {"vocab_size", "pad_id", "eos_id", "start_id"})
        if fixed:
            raise ValueError(f"model.{fixed[0]} follows from the vocabulary; remove it")
        if self.vocabulary.served and self.teacher is None:
            raise ValueError("vocabulary.served needs a 'teacher' section with an address")
        if self.teacher is not None and self.teacher.store is not None:
            self._check_fixed()
        return self

    def _check_fixed(self) -> None:
        """A score store answers about fixed pairs alone."""
        if self.student_writes:
            raise ValueError(
                f"method {self.method} has the student write new targets, which no teacher.store "
                "holds; give teacher.address instead, or use method word-kd"
            )
        if self.method != "vanilla" and self.corpus.source_candidates > 1:
            raise ValueError(
                f"corpus.source_candidates={self.corpus.source_candidates} draws other sources "
                "every epoch, and a teacher.store holds one of each; set it to 1 or give "
                "teacher.address instead"
            )

    def pinned_to(self, revision: str | None) -> RunConfig:
        """The same run, in which every request names the teacher's revision."""
        if self.teacher is None or revision is None:
            return self
        teacher = self.teacher.model_copy(update={"revision": revision})
        return self.model_copy(update={"teacher": teacher})

    @property
    def student_writes(self) -> bool:
        """Whether rows may be replaced by the student's own text."""
        return self.method in IMITATION


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides (values are YAML), validate.

    Raises:
        UserError: unreadable file, malformed override, unknown key, value out of range.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read configuration {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no configuration: a mapping of sections is expected")
    for override in overrides:
        _apply(data, override)
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


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} is not of the form key=value (optimiser.steps=100)")
    *parents, last = key.split(".")
    section = data
    for parent in parents:
        section = (
            section.setdefault(parent, {})
            if section.get(parent) is not None
            else _new(section, parent)
        )
        if not isinstance(section, dict):
            raise UserError(f"override {override!r}: {parent!r} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error


def _new(section: dict[str, Any], key: str) -> dict[str, Any]:
    section[key] = {}
    return section[key]
