"""Configurations are refused with a line that says what is wrong, and shipped ones load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from seq2seq.errors import UserError
from seq2seq.model import build_model
from student_trainer.config import RunConfig, dump_config, load_config, make_config
from student_trainer.mixing import beta

CONFIGS = Path(__file__).parents[3] / "configs"
# Names with an underscore are parts of others, studies are no training configurations.
SHIPPED = sorted(
    file
    for file in CONFIGS.rglob("*.yaml")
    if not file.name.startswith("_") and "studies" not in file.parts
)
PAPER_METHODS = {
    "vanilla", "word-kd", "seqkd", "seqkd-full", "seqinter", "imitkd", "imitkd-full"
}  # fmt: skip
STARS = {"imitkd-star", "imitkd-star-full"}
PAPER = {
    "iwslt14/sru2": PAPER_METHODS,
    "iwslt14/sru3": PAPER_METHODS,
    "iwslt14/transformer": PAPER_METHODS,
    "wmt16/sru4": PAPER_METHODS | STARS,
    "wmt16/sru4-low-data": PAPER_METHODS | STARS,
    "cnndm/sru2": PAPER_METHODS | STARS,
}


@pytest.fixture
def write(tmp_path: Path, plain_config: dict[str, Any]):
    """Write the plain configuration with changes; the file."""

    def make(**changes: Any) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(plain_config | changes))
        return file

    return make


def refused(file: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_keys_are_named_with_their_section(write):
    assert "unknown key 'optimizer'" in refused(write(optimizer={"steps": 3}))
    assert "unknown key 'batch.size'" in refused(write(batch={"sentences": 3, "size": 8}))
    assert "unknown key 'rollout.limit.max'" in refused(write(), "rollout.limit.max=9")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimiser.steps", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("optimiser.steps=[1", "not valid YAML"),
        ("name.first=x", "'name' is a value, not a section"),
        ("optimiser.steps.more=3", "'steps' is a value, not a section"),
        ("optimiser.steps=0", "optimiser.steps"),
        ("optimiser.steps=many", "given 'many'"),
        ("optimiser.stepz=3", "unknown key 'optimiser.stepz'"),
        ("method=magic", "given 'magic'"),
        ("loss.label_smoothing=1", "less than 1"),
        ("model.vocab_size=9", "follows from the vocabulary"),
        ("method=imitkd", "needs a 'teacher' section"),
        ("vocabulary.size=100", "either 'from'"),
        ("vocabulary.served=true", "either 'from'"),
        ("vocabulary={served: true}", "needs a 'teacher' section"),
        ("model.start_id=1", "model.start_id follows from the vocabulary"),
        ("batch.sentences=null", "'sentences', 'tokens' or both"),
        ("rollout.lag=-1", "given -1"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_with_the_value(write, override, expected):
    assert expected in refused(write(), override)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=imitkd"], "method imitkd has the student write"),
        (["method=imitkd-full"], "teacher.address instead"),
        (["method=word-kd", "corpus.source_candidates=4"], "corpus.source_candidates=4 draws"),
        (["method=word-kd", "teacher.address=there:1"], "either 'address'"),
        (["teacher.store=null"], "either 'address'"),
        (["teacher={timeout_s: 3}"], "either 'address'"),
    ],
)
def test_a_score_store_is_for_fixed_pairs_and_alone(write, overrides, expected):
    assert expected in refused(write(teacher={"store": "scores"}), *overrides)


def test_a_score_store_takes_the_place_of_an_address(write):
    file = write(method="word-kd", teacher={"address": "there:1"})
    config = load_config(file, ["teacher.address=null", "teacher.store=scores"])
    assert config.teacher is not None
    assert (config.teacher.address, config.teacher.store) == (None, Path("scores"))
    again = yaml.safe_load(dump_config(config))
    assert RunConfig(**again) == config


def test_all_faults_come_at_once(write):
    message = refused(write(), "workers=0", "seed=-1", "colour=red")
    assert all(part in message for part in ("workers", "seed", "'colour'"))


def test_a_missing_section_is_named(write):
    file = write()
    data = yaml.safe_load(file.read_text())
    del data["optimiser"]
    file.write_text(yaml.safe_dump(data))
    assert "'optimiser' is missing" in refused(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no configuration"),
        (b"[1, 2]", "no configuration"),
        (b"a: b: c", "not valid YAML"),
        (b"\xff\xfe\xff", "cannot read configuration"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, expected):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    assert expected in refused(file) and str(file) in refused(file)


def test_a_file_that_is_not_there(tmp_path):
    assert "No such file or directory" in refused(tmp_path / "none.yaml")


def test_overrides_reach_old_and_new_sections_with_yaml_values(write):
    config = load_config(
        write(),
        [
            "optimiser.steps=17",
            "optimiser.betas=[0.5, 0.6]",
            "teacher.address=host:1",
            "method=imitkd",
            "corpus.sentences=null",
            "model.ffn=64",
            "name=a=b",
        ],
    )
    assert config.optimiser.steps == 17 and config.optimiser.betas == (0.5, 0.6)
    assert config.teacher is not None and config.teacher.address == ("host:1",)
    assert config.model["ffn"] == 64 and config.name == "a=b"


@pytest.mark.parametrize("written", ["a:1, b:2", ["a:1", "b:2"]])
def test_several_addresses_of_one_teacher(write, written):
    config = load_config(write(method="imitkd", teacher={"address": written}))
    assert config.teacher is not None
    assert config.teacher.address == ("a:1", "b:2")
    override = f"teacher.address={written}".replace("'", "")
    assert load_config(write(method="imitkd"), [override]) == config


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "no teacher address"),
        ([], "no teacher address"),
        ("file:x", "absolute path"),
        (3, "valid tuple"),
    ],
)
def test_addresses_that_cannot_be_meant(write, written, fault):
    message = refused(write(method="imitkd", teacher={"address": written}))
    assert "teacher.address" in message and fault in message


@pytest.mark.parametrize("address", ["host:1", ["a:1", "b:2"]])
def test_what_is_saved_with_a_run_reads_back_the_same(write, tmp_path, address):
    changes = {
        "method": "imitkd-full",
        "teacher": {"address": address},
        "initialise": {"from": "x", "encoder_layers": [0], "decoder_layers": [2, 0]},
    }
    config = load_config(write(**changes))
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump_config(config))
    assert load_config(saved) == config


def test_a_configuration_cannot_be_changed(plain_config):
    config = make_config(plain_config)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "writes"),
    [("vanilla", False), ("word-kd", False), ("imitkd", True), ("imitkd-full", True)],
)
def test_under_which_methods_the_student_writes(plain_config, method, writes):
    config = make_config(plain_config | {"method": method, "teacher": {"address": "x:1"}})
    assert config.student_writes is writes


@pytest.mark.parametrize("file", SHIPPED, ids=lambda p: "/".join(p.parts[-2:]))
def test_shipped_configurations_load(file):
    config = load_config(file)
    assert isinstance(config, RunConfig)
    with torch.device("meta"):
        build_model({"vocab_size": 16} | config.model)


def test_there_are_shipped_configurations():
    assert SHIPPED


@pytest.mark.parametrize("students", PAPER)
def test_the_paper_has_every_method_of_every_student(students):
    files = sorted((CONFIGS / "paper" / students).glob("*.yaml"))
    assert {file.stem for file in files} == PAPER[students]
    corpus, student = students.split("/")
    configs = [load_config(file) for file in files]
    for file, config in zip(files, configs, strict=True):
        assert config.method == file.stem and config.name == f"{corpus}-{student}-{file.stem}"
        # PAPER 2: under "+ Full" the whole distribution, not its best part.
        exact = config.spec.label == "distribution"
        assert (config.payload == "hidden") is exact or not config.asks_teacher
        # Nothing but the method, and what belongs to it, tells the files of a student apart.
        assert config.model == configs[0].model
        assert config.batch == configs[0].batch and config.corpus == configs[0].corpus
        assert config.optimiser.steps == configs[0].optimiser.steps


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("iwslt14/sru2/imitkd", (200.0, 0.005, 4, "sample", 125, 128, 1.4e-3, 5.0)),
        ("iwslt14/transformer/imitkd-full", (200.0, 0.005, 4, "greedy", 125, 128, 1.4e-3, 5.0)),
        ("wmt16/sru4/imitkd", (200.0, 0.005, 1, "greedy", 100, 512, 7.9e-4, 2.0)),
        ("wmt16/sru4/imitkd-star", (2.0, 0.5, 1, "greedy", 100, 512, 7.9e-4, 2.0)),
        ("wmt16/sru4-low-data/imitkd-star-full", (2.0, 0.5, 1, "greedy", 100, 128, 7.9e-4, 2.0)),
        ("cnndm/sru2/imitkd-full", (10.0, 0.1, 4, "greedy", 99, 32, 2.2e-3, 5.0)),
        ("cnndm/sru2/imitkd-star", (10.0, 0.1, 4, "greedy", 99, 32, 2.2e-3, 5.0)),
    ],
)
def test_the_papers_settings(file, expected):
    config = load_config(CONFIGS / "paper" / f"{file}.yaml")
    steps, limit = config.optimiser.steps, config.rollout.limit
    found = (
        config.mixing.base,
        round(beta(config.mixing, steps, steps), 9),
        config.rollout.pool,
        config.rollout.decoding,
        min(limit.offset, limit.cap),
        config.batch.sentences,
        config.optimiser.learning_rate,
        config.optimiser.clip,
    )
    assert found == expected and limit.ratio == 0
    assert config.rollout.top_k == 5 and config.optimiser.schedule == "inverse-sqrt"


def test_a_file_on_top_of_others(tmp_path, plain_config):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "base.yaml").write_text(yaml.safe_dump(plain_config))
    (tmp_path / "parts" / "loss.yaml").write_text("loss: {top_k: 5, temperature: 2.0}\n")
    (tmp_path / "run.yaml").write_text(
        "extends: [parts/base.yaml, parts/loss.yaml]\nname: above\nloss: {top_k: 6}\n"
        "optimiser: {betas: [0.5, 0.6]}\ninitialise: null\n"
    )
    config = load_config(tmp_path / "run.yaml", ["loss.tail=renormalised"])
    assert (config.name, config.method) == ("above", "vanilla")
    assert (config.loss.top_k, config.loss.temperature, config.loss.tail) == (
        6,
        2.0,
        "renormalised",
    )
    assert config.optimiser.betas == (0.5, 0.6)
    assert config.optimiser.steps == plain_config["optimiser"]["steps"]
    (tmp_path / "one.yaml").write_text("extends: run.yaml\nseed: 9\n")
    assert load_config(tmp_path / "one.yaml").seed == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: run.yaml", "extends itself; break the circle"),
        ("extends: gone.yaml", "gone.yaml, which "),
        ("extends: 3", "neither a file nor a list of files"),
        ("extends: [3]", "neither a file nor a list of files"),
    ],
)
def test_what_a_file_cannot_extend(tmp_path, text, expected):
    file = tmp_path / "run.yaml"
    file.write_text(text + "\n")
    assert expected in refused(file)


def test_a_circle_of_two_files(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "extends itself" in refused(tmp_path / "a.yaml")


def test_a_run_cannot_begin_with_more_workers_than_it_has(write):
    assert load_config(write(workers=3, workers_at_start=3)).workers_at_start == 3
    expected = "workers_at_start 4 is more than workers 3"
    assert expected in refused(write(workers=3, workers_at_start=4))


def test_processes_of_a_learner_have_rows_and_devices_of_their_own(write):
    assert load_config(write(learner_processes=8)).learner_processes == 8
    by_tokens = write(learner_processes=9, batch={"tokens": 100})
    assert load_config(by_tokens).learner_processes == 9
    few = refused(write(learner_processes=9))
    assert "learner_processes 9 cannot share batch.sentences 8; lower the one" in few
    one = refused(write(learner_processes=2, device="cuda:1"))
    assert "device cuda:1 is one device, and learner_processes 2 take one each; set" in one
    assert load_config(write(device="cuda:1")).device == "cuda:1"
