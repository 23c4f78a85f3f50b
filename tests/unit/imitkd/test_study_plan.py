"""Study files: which cells they come to, and what they may not ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imitkd.study.plan import Cell, StudyConfig, cell_config, cells, load_study, needs_distilled
from seq2seq.errors import UserError
from seq2seq.model import build_model
from student_trainer.methods import METHODS

MODEL = {"kind": "transformer", "d_model": 16, "heads": 2, "ffn": 32}


def plain(**changes: Any) -> dict[str, Any]:
    return {
        "name": "little",
        "corpus": "data/little",
        "teacher": "teachers/little",
        "train": {
            "vocabulary": {"from": "teachers/little"},
            "batch": {"sentences": 4},
            "optimiser": {"steps": 5, "learning_rate": 0.001},
        },
        "students": {"small": {"model": MODEL | {"encoder_layers": 1, "decoder_layers": 1}}},
        "variants": ["vanilla", "imitkd-full"],
    } | changes


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(plain(**changes), sort_keys=False))
        return path

    return make


def keys(study: StudyConfig) -> list[str]:
    return [cell.key for cell in cells(study)]


def test_cells_are_students_by_variants_by_seeds(write: Any) -> None:
    model = plain()["students"]["small"]["model"]
    study = load_study(
        write(
            seeds=[1, 2],
            students={
                "small": {"model": model},
                "other": {"model": model, "variants": ["vanilla"]},
            },
        )
    )
    assert keys(study) == [
        f"{rest}/seed{seed}"
        for seed in (1, 2)
        for rest in ("small/vanilla", "small/imitkd-full", "other/vanilla")
    ]


def test_a_cell_that_goes_on_from_another_comes_last(write: Any) -> None:
    study = load_study(write(variants=["seqinter", "vanilla", "seqkd"]))
    assert keys(study) == ["small/vanilla/seed1", "small/seqkd/seed1", "small/seqinter/seed1"]
    config = cell_config(study, list(cells(study))[-1], address="x:1", runs=Path("runs/little"))
    assert config.initialise is not None
    assert config.initialise.from_ == Path("runs/little/small/vanilla/seed1/student")
    assert config.initialise.encoder_layers is None


def test_a_variant_may_be_trained_with_some_of_the_seeds(write: Any) -> None:
    once = {"method": "imitkd", "seeds": [2]}
    study = load_study(write(variants=["vanilla", once], seeds=[1, 2]))
    assert keys(study) == ["small/vanilla/seed1", "small/vanilla/seed2", "small/imitkd/seed2"]


def test_a_teacher_may_be_an_ensemble(write: Any) -> None:
    assert load_study(write()).teachers == [Path("teachers/little")]
    several = load_study(write(teacher=["teachers/a", "teachers/b"]))
    assert several.teachers == [Path("teachers/a"), Path("teachers/b")]


def test_dropout_is_tuned_by_method(write: Any) -> None:
    free = {"method": "imitkd-full", "overrides": {"model.dropout": 0.0}}
    small = {"small": {"model": plain()["students"]["small"]["model"] | {"dropout": 0.3}}}
    study = load_study(write(variants=["vanilla", free], students=small))
    found = [cell_config(study, c, address="x:1", runs=Path("r")).model for c in cells(study)]
    assert [model["dropout"] for model in found] == [0.3, 0.0]
    assert found[0] | {"dropout": 0} == found[1] | {"dropout": 0}


def test_a_variant_is_the_shared_configuration_with_its_own_settings(write: Any) -> None:
    variant = {
        "name": "jsd",
        "method": "gkd",
        "overrides": {"loss.divergence": "jsd", "optimiser.learning_rate": 0.5, "mixing.lambda": 1},
    }
    small = plain()["students"]["small"] | {"overrides": {"optimiser.learning_rate": 0.25}}
    study = load_study(
        write(variants=["vanilla", variant], students={"small": small}, distilled="data/d")
    )
    first, second = (
        cell_config(study, cell, address="x:1", runs=Path("r")) for cell in cells(study)
    )
    assert (first.method, first.optimiser.learning_rate, first.name) == (
        "vanilla", 0.25, "little-small-vanilla-seed1"
    )  # fmt: skip
    assert (second.method, second.optimiser.learning_rate) == ("gkd", 0.5)
    assert second.loss.divergence == "jsd" and second.mixing.lambda_ == 1
    assert second.optimiser.steps == first.optimiser.steps == 5
    assert second.corpus.distilled == Path("data/d")
    assert not needs_distilled(cells(study))
    assert needs_distilled(cells(load_study(write(variants=["seqkd"]))))


def test_a_shared_schedule_is_of_the_variants_that_have_one(write: Any) -> None:
    shared = plain()["train"] | {"mixing": {"schedule": "linear", "final": 0.2, "warmup": 0.1}}
    whole = {"method": "imitkd", "name": "whole", "overrides": {"mixing.lambda": 1}}
    part = {"method": "gkd", "name": "part", "overrides": {"mixing.lambda": 0.2}}
    study = load_study(write(train=shared, variants=["imitkd", "gkd", whole, part]))
    found = [cell_config(study, c, address="x:1", runs=Path("r")).mixing for c in cells(study)]
    assert [(one.schedule, one.lambda_, one.warmup) for one in found] == [
        ("linear", None, 0.1), (None, 0.5, 0), (None, 1, 0), (None, 0.2, 0)
    ]  # fmt: skip
    own = {"method": "gkd", "overrides": {"mixing.schedule": "constant"}}
    with pytest.raises(UserError, match=r"cell small/gkd/seed1: .*mixing.schedule constant would"):
        load_study(write(train=shared, variants=[own]))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"variants": [{"method": "imitkd", "overrides": {"optimiser.steps": 9}}]}, "a condition"),
        ({"variants": [{"method": "imitkd", "overrides": {"batch.tokens": 9}}]}, "a condition"),
        ({"variants": [{"method": "imitkd", "overrides": {"seed": 9}}]}, "a condition"),
        ({"variants": [{"method": "imitkd", "overrides": {"model.d_model": 8}}]}, "a condition"),
        ({"variants": [{"method": "imitkd", "overrides": {"optimiser": {"steps": 9}}}]},
         "cell small/imitkd/seed1: optimiser.steps is a condition of the whole study"),
        ({"variants": [{"method": "imitkd", "overrides": {"optimiser": {"learning_rate": 0.5}}}]},
         "optimiser.steps is a condition"),
        ({"variants": [{"method": "imitkd", "overrides": {"method": "seqkd"}}]}, "method is a"),
        ({"variants": [{"method": "imitkd", "overrides": {"name": "other"}}]}, "name is a"),
        ({"variants": [{"method": "imitkd", "overrides": {"corpus.sentences": 7}}]},
         "corpus.sentences is a condition"),
        ({"metric": "rouge1"}, "set train.validation.metric to rouge"),
        ({"variants": [{"method": "imitkd", "seeds": [2]}]}, "imitkd: seed 2 is none of the"),
        ({"variants": [{"method": "imitkd", "baselines": {"seqkd": "seqkd-all"}}]},
         "imitkd: baselines: no variant 'seqkd-all'"),
        ({"variants": [{"method": "imitkd", "baselines": {"word-kd": "vanilla"}}]}, "baselines"),
        ({"variants": [{"method": "vanilla", "seeds": [2]}, "seqinter"], "seeds": [1, 2]},
         "seqinter goes on from vanilla, which it is not trained with, or not with all"),
        ({"variants": ["vanilla", "vanilla"]}, "names of variants must differ"),
        ({"variants": [{"method": "imitkd", "name": "teacher"}]}, "names of variants must differ"),
        ({"variants": ["seqinter", "seqkd"]}, "seqinter goes on from vanilla"),
        ({"variants": ["magic"]}, "given 'magic'"),
        ({"variants": [{"method": "imitkd", "overrides": {"loss.colour": 1}}]}, "loss.colour"),
        ({"variants": [{"method": "imitkd", "overrides": {"loss.payload": "full"}}]}, None),
        ({"variants": [{"method": "imitkd", "overrides": {"loss.payload": "candidates"}}]},
         "cell small/imitkd/seed1"),
        ({"teacher": []}, "teacher: no directory"),
        ({"students": {}}, "students"),
        ({"seeds": []}, "seeds"),
        ({"name": "a/b"}, "name"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)  # fmt: skip
def test_what_a_study_may_not_ask_for(write: Any, changes: Any, fault: str | None) -> None:
    if fault is None:
        assert load_study(write(**changes))
        return
    with pytest.raises(UserError, match=fault) as told:
        load_study(write(**changes))
    assert "\n" not in str(told.value)


def test_a_student_names_a_variant_that_is_not_there(write: Any) -> None:
    small = plain()["students"]["small"] | {"variants": ["seqkd"]}
    with pytest.raises(UserError, match=r"students.small.variants: no variant 'seqkd'"):
        load_study(write(students={"small": small}))


def test_the_shared_configuration_may_stand_on_a_file(write: Any, tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(plain()["train"]))
    path = write(base="shared.yaml", train={"optimiser": {"steps": 6}})
    study = load_study(path, ["seeds=[4]"])
    (cell, _) = cells(study)
    assert cell == Cell("small", study.variants[0], 4)
    config = cell_config(study, cell, address="x:1", runs=Path("r"))
    assert (config.optimiser.steps, config.optimiser.learning_rate) == (6, 0.001)
    assert load_study(path, ["train.optimiser.steps=7"]).train["optimiser"]["steps"] == 7


SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "studies").glob("[!_]*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda p: p.stem)
def test_shipped_studies_load(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    core = {"vanilla", "word-kd", "seqkd", "imitkd", "imitkd-full"}
    assert any(
        core <= {cell.variant.method for cell in cells(study) if cell.student == student}
        for student in study.students
    )
    for cell in cells(study):
        config = cell_config(study, cell, address="x:1", runs=Path("runs"))
        with torch.device("meta"):
            build_model({"vocab_size": 16} | config.model)


def test_the_studies_of_every_method_have_every_method() -> None:
    assert {p.stem for p in SHIPPED} >= {
        "ui_strings_en_pt", "multi30k_de_en", "multi30k_low_data", "aeslc"
    }  # fmt: skip
    for name in ("ui_strings_en_pt", "multi30k_de_en"):
        (file,) = [p for p in SHIPPED if p.stem == name]
        assert {cell.variant.method for cell in cells(load_study(file))} == set(METHODS)


def test_a_study_that_extends_another_may_leave_a_student_out() -> None:
    (file,) = [p for p in SHIPPED if p.stem == "multi30k_low_data"]
    assert list(load_study(file).students) == ["transformer"]


def test_the_command_line_may_leave_a_student_out(write: Any) -> None:
    small = plain()["students"]["small"]
    path = write(students={"small": small, "other": small})
    assert list(load_study(path, ["students.other=null"]).students) == ["small"]
