"""A study file: what is compared, under which conditions; and the cells that it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imitkd.study.conditions import changed_conditions
from seq2seq.errors import UserError
from seq2seq.metrics import Metric
from seq2seq.model import describe
from student_trainer.config import RunConfig, make_config
from student_trainer.methods import METHODS, UNSCHEDULED, Method
from student_trainer.yaml_files import apply_override, merge, read_mapping

# What rows are compared with: the variant of that name, unless one names another.
Baseline = Literal["vanilla", "seqkd"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VariantConfig(_Section):
    """A method with settings of its own.

    Attributes:
        name: of its rows; the method's by default.
        overrides: ``a.b: value`` on top of the shared configuration, tuned on validation.
        after: under ``seqinter``, the variant whose finished student it goes on from.
        seeds: those of the study's that it is trained with; all by default.
        baselines: the variant that its rows are compared with instead of ``vanilla`` or ``seqkd``
            (the keys), where this one learns from other data.
    """

    method: Method
    name: str = ""
    overrides: dict[str, Any] = {}
    after: str = "vanilla"
    seeds: list[int] | None = None
    baselines: dict[Baseline, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"method": data} if isinstance(data, str) else data

    @property
    def label(self) -> str:
        """The name of its rows."""
        return self.name or self.method


class StudentConfig(_Section):
    """A student architecture.

    Attributes:
        model: model section of its configurations.
        overrides: ``a.b: value``, tuned on validation, the same for all its methods.
        variants: labels of the methods it is trained with; all by default.
    """

    model: dict[str, Any]
    overrides: dict[str, Any] = {}
    variants: list[str] | None = None


class StudyConfig(_Section):
    """A study.

    Attributes:
        corpus: prepared corpus directory, with references in its held-out splits.
        tests: splits that are reported.
        teacher: model directory, or the members of an ensemble; served for as long as the study
            needs it.
        distilled: directory of the targets that the teacher writes for the training sources, its
            ``beam`` best for each; beside the runs by default. What is there already is kept.
        train: the configuration that all cells share; ``base: FILE``, beside the study file, goes
            below it.
        metric: of the intervals and p-values.
        beam: the beam size besides greedy.
        threads: of evaluation and of the teacher's service; the speeds depend on it.
        serve: further flags of `imitkd teacher serve`, of caches for instance.
        limit_sentences: the first so many of each test split; all by default.
        resamples, bootstrap_seed: of the bootstrap.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    corpus: Path
    tests: list[str] = ["test"]
    teacher: Path | list[Path]
    distilled: Path | None = None
    train: dict[str, Any] = {}
    students: dict[str, StudentConfig] = Field(min_length=1)
    variants: list[VariantConfig] = Field(min_length=1)
    seeds: list[int] = Field([1], min_length=1)
    metric: str = "bleu"
    beam: int = Field(5, ge=2)
    threads: int = Field(1, ge=1)
    serve: list[str] = []
    limit_sentences: int | None = Field(None, ge=1)
    resamples: int = Field(1000, ge=1)
    bootstrap_seed: int = 12345

    @property
    def teachers(self) -> list[Path]:
        """The directories of its teacher; of an ensemble several."""
        return [self.teacher] if isinstance(self.teacher, Path) else self.teacher

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        labels = [variant.label for variant in self.variants]
        if not self.teachers:
            raise ValueError("teacher: no directory; name one, or the members of an ensemble")
        if len(set(labels)) != len(labels) or "teacher" in labels:
            raise ValueError(f"names of variants must differ, from 'teacher' too: {labels}")
        for variant in self.variants:
            self._check_variant(variant, labels)
        for student, settings in self.students.items():
            chosen = labels if settings.variants is None else settings.variants
            unknown = sorted(set(chosen) - set(labels))
            if unknown:
                raise ValueError(f"students.{student}.variants: no variant {unknown[0]!r}")
            for variant in self.variants:
                goes_on = variant.label in chosen and METHODS[variant.method].finished_student
                if goes_on and not self._trained(variant.after, chosen, variant.seeds):
                    raise ValueError(
                        f"students.{student}: {variant.label} goes on from {variant.after}, which "
                        "it is not trained with, or not with all of its seeds"
                    )
        return self

    @property
    def validated_by(self) -> Metric:
        """The metric that chooses checkpoints."""
        return "rouge" if self.metric.startswith("rouge") else "bleu"

    def _trained(self, label: str, chosen: list[str], seeds: list[int] | None) -> bool:
        """Whether a student is trained as ``label`` with these seeds."""
        found = [v for v in self.variants if v.label == label and label in chosen]
        wanted = set(self.seeds if seeds is None else seeds)
        return any(wanted <= set(self.seeds if v.seeds is None else v.seeds) for v in found)

    def _check_variant(self, variant: VariantConfig, labels: list[str]) -> None:
        for label in variant.baselines.values():
            if label not in labels:
                raise ValueError(f"variant {variant.label}: baselines: no variant {label!r}")
        unknown = sorted(set(variant.seeds or ()) - set(self.seeds))
        if unknown:
            raise ValueError(f"variant {variant.label}: seed {unknown[0]} is none of the study's")


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    student: str
    variant: VariantConfig
    seed: int

    @property
    def key(self) -> str:
        """Its directory, below the study's."""
        return f"{self.student}/{self.variant.label}/seed{self.seed}"


def load_study(path: Path, overrides: list[str] | None = None) -> StudyConfig:
    """Read a study file; ``base`` may name a configuration file below ``train``.

    Raises:
        UserError: a file cannot be read, or all faults of a file on one line.
    """
    data = read_mapping(path)
    # On top of the file: what this study, or one that extends it, says besides.
    if isinstance(named := data.pop("base", None), str):
        data["train"] = merge(read_mapping(path.parent / named), data.get("train") or {})
    for override in overrides or []:
        apply_override(data, override)
    students = data.get("students")
    if isinstance(students, dict):  # null leaves one out
        data["students"] = {name: s for name, s in students.items() if s is not None}
    try:
        study = StudyConfig(**data)
    except (ValidationError, TypeError) as error:
        text = describe(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{path}: {text}") from error
    for cell in cells(study):  # a fault in the last cell is told before the first
        config = cell_config(study, cell, address="127.0.0.1:1", runs=Path("runs"))
        if config.validation.metric != study.validated_by:
            raise UserError(
                f"{path}: metric {study.metric}, but checkpoints are chosen by "
                f"{config.validation.metric}; set train.validation.metric to {study.validated_by}"
            )
    return study


def cells(study: StudyConfig) -> Iterator[Cell]:
    """All cells; one that goes on from another comes after it."""
    ordered = sorted(study.variants, key=lambda v: METHODS[v.method].finished_student)
    for seed in study.seeds:
        for student, settings in study.students.items():
            for variant in ordered:
                of_student = settings.variants is None or variant.label in settings.variants
                if of_student and (variant.seeds is None or seed in variant.seeds):
                    yield Cell(student, variant, seed)


def before_cell(study: StudyConfig, cell: Cell) -> Cell | None:
    """The cell whose finished student it goes on from, if any."""
    if not METHODS[cell.variant.method].finished_student:
        return None
    (after,) = (v for v in study.variants if v.label == cell.variant.after)
    return Cell(cell.student, after, cell.seed)


def cell_config(study: StudyConfig, cell: Cell, *, address: str, runs: Path) -> RunConfig:
    """The training configuration of a cell.

    Args:
        address: where the teacher answers.
        runs: parent of the study's run directories.

    Raises:
        UserError: its faults, on one line; or its variant changes a condition of the study.
    """
    student, variant = study.students[cell.student], cell.variant
    data = merge(study.train, {"name": f"{study.name}-{cell.key.replace('/', '-')}"})
    data = merge(data, {"method": variant.method, "seed": cell.seed, "model": student.model})
    data = merge(data, {"corpus": {"path": str(study.corpus)}})
    if study.distilled is not None:
        data = merge(data, {"corpus": {"distilled": str(study.distilled)}})
    data = merge(data, {"teacher": {"address": address}})
    if (before := before_cell(study, cell)) is not None:
        data["initialise"] = {"from": str(runs / before.key / "student")}
    shared = _with(data, student.overrides)
    if variant.method in UNSCHEDULED or "mixing.lambda" in variant.overrides:
        # A schedule that the methods share is none of this one's; one of its own is refused.
        shared["mixing"] = _without_schedule(shared.get("mixing") or {})
    own = _with(shared, variant.overrides)
    where = f"study {study.name}, cell {cell.key}"
    if changed := changed_conditions(shared, own):
        raise UserError(
            f"{where}: {changed[0]} is a condition of the whole study; set it in 'train'"
        )
    return make_config(own, where)


def _with(data: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    changed = merge(data, {})
    for key, value in overrides.items():
        _set(changed, key, value)
    return changed


def _without_schedule(mixing: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mixing.items() if key not in ("schedule", "warmup")}


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    section = data
    for parent in parents:
        section[parent] = dict(section.get(parent) or {})
        section = section[parent]
    section[last] = value


def needs_distilled(chosen: Iterable[Cell]) -> bool:
    """Whether some cell learns from what the teacher wrote."""
    return any(METHODS[cell.variant.method].data != "reference" for cell in chosen)
