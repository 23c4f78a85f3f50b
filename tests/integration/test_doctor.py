"""`imitkd doctor` against real services on loopback: what it says of good and of bad teachers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imitkd.cli.main import main
from imitkd.doctor import agreement, teacher
from imitkd.doctor.checks import CHECKS
from imitkd.doctor.examination import CannotRun, Examination, examine
from imitkd.doctor.findings import Finding
from imitkd.score_corpus import score_corpus
from seq2seq.checkpoint import load_model_directory, save_model_directory
from seq2seq.corpus import read_split
from student_trainer.config import make_config
from student_trainer.types import TeacherLabels
from teacher_service.client import TeacherClient
from teacher_service.codec import TopKSpec
from teacher_service.fleet import SERVICE
from teacher_service.server import ServerThread
from tests.builders import tiny_model, tiny_text, tiny_vocabulary
from tests.fake_teacher import FakeTeacher, serving
from tests.unit.teacher_service.support import tiny_config

Config = dict[str, Any]
MEETING = ("teacher", "health", "replicas")
KNOWING = (*MEETING, "vocabulary", "identity", "limits")
ANSWERING = (*KNOWING, "lines", "lengths", "answers")
COMPARING = (*MEETING, "lines", "directory", "scores", "divergence")
Run = Callable[..., dict[str, list[Finding]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits that share nothing, validation large enough."""
    directory = tmp_path_factory.mktemp("corpus")
    lines = list(dict.fromkeys(tiny_text(400)))
    splits = {"train": lines[:150], "validation": lines[150:260], "test": lines[260:270]}
    for split, part in splits.items():
        records = [{"source": x, "references": [" ".join(x.split()[::-1])]} for x in part]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (directory / f"{split}.jsonl").write_text(text)
    return directory


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows how frequent each piece of the references is, and little else."""
    vocabulary = tiny_vocabulary()
    limits = {"max_source_length": 128, "max_target_length": 128}
    found = tiny_model(7, vocab_size=vocabulary.size, spread=0.05, **limits)
    texts = [r for e in read_split(corpus, "train") for r in e.references]
    ids = torch.tensor([i for text in texts for i in vocabulary.encode_target(text)])
    with torch.no_grad():
        found.embedding.weight *= 0.2
        found.logit_bias.copy_((torch.bincount(ids, minlength=vocabulary.size) + 1).log())
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_model_directory(path, found, vocabulary, name="frequent", card="", dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with ServerThread(tiny_config(model)) as server:
        yield server.address


@pytest.fixture
def plain(plain_config: Config, corpus: Path, model: Path, address: str) -> Config:
    """A configuration that is all right."""
    return plain_config | {
        "method": "imitkd-full",
        "corpus": {"path": str(corpus)},
        "vocabulary": {"from": str(model)},
        "teacher": {"address": address, "timeout_s": 10.0},
        "validation": {"every": 4, "sentences": 110},
    }


@pytest.fixture
def run(plain: Config, tmp_path: Path) -> Run:
    """Findings by check of some checks of a changed configuration."""

    def of(*names: str, patience_s: float = 5.0, **change: Any) -> dict[str, list[Finding]]:
        config = make_config(plain | change)
        it = Examination(config, tmp_path / "run", patience_s=patience_s)
        found: dict[str, list[Finding]] = {}
        for finding in examine(it, [c for c in CHECKS if c.name in names]):
            found.setdefault(finding.check, []).append(finding)
        return found

    return of


def severities(found: dict[str, list[Finding]]) -> dict[str, str]:
    return {name: str(found[name][0].severity) for name in found if len(found[name]) == 1}


def only(findings: list[Finding], severity: str) -> str:
    """The message of the one finding."""
    assert [str(f.severity) for f in findings] == [severity], findings
    return findings[0].message


# ------------------------------------------------------------------------------- the whole command


def doctor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and standard output."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *map(str, arguments)])
    return int(caught.value.code or 0), capsys.readouterr().out


def test_a_run_that_is_all_right(plain, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    monkeypatch.chdir(tmp_path)
    code, out = doctor(capsys, "config.yaml", "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["config"]) == (0, 0, "config.yaml"), out
    by_check = {f["check"]: f for f in told["findings"]}
    assert list(by_check) == [check.name for check in CHECKS]
    passed = {name for name, f in by_check.items() if f["severity"] == "ok"}
    assert passed == set(by_check) - {"ray"}
    assert by_check["duration"]["facts"]["steps_tried"] == 4
    kinds = [f["facts"]["prefixes"] for f in told["findings"] if f["check"] == "divergence"]
    assert kinds == ["reference", "greedy", "sampled", "mixed"]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"], "nothing is written"


def test_a_table_for_people_and_a_teacher_served_for_the_occasion(
    plain, model, tmp_path, monkeypatch, capsys
):
    """The configuration's own address is that of nobody."""
    plain = plain | {"teacher": {"address": unused(), "timeout_s": 5.0}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    wanted = {*MEETING, "directory"}
    skip = [x for check in CHECKS if check.name not in wanted for x in ("--skip", check.name)]
    code, out = doctor(capsys, "config.yaml", *skip, "--patience", 0.2)
    assert code == 2 and "1 error" in out
    assert f"--serve {model}" in out
    code, out = doctor(capsys, "config.yaml", *skip, "--serve", model)
    assert code == 0 and f"{model} is what is served" in out
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_configuration_that_is_not_valid_is_one_line(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("method: nonsense\n")
    with pytest.raises(SystemExit) as caught:
        main(["doctor", str(tmp_path / "config.yaml")])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ------------------------------------------------------------------------------ meeting the teacher


def unused() -> str:
    """An address at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_nobody_answers_and_what_needs_the_teacher_says_so(run, model):
    found = run(*ANSWERING, "directory", teacher={"address": unused()}, patience_s=0.2)
    assert "gave up" in only(found["teacher"], "error")
    assert f"imitkd teacher serve {model}" in found["teacher"][0].remedy
    for name in ("health", "replicas", "identity", "limits", "answers", "directory"):
        assert only(found[name], "skipped").startswith("cannot run: '"), name
    assert severities(found)["vocabulary"] == severities(found)["lines"] == "ok"


def test_a_method_without_a_teacher_needs_none(run):
    found = run(*KNOWING, method="vanilla", teacher=None)
    assert only(found["teacher"], "skipped") == "method vanilla asks no teacher"


def test_a_teacher_that_does_not_serve(run):
    fake = FakeTeacher()
    with serving(fake) as (address,):
        fake.health.set(SERVICE, 2)
        found = run(*MEETING, teacher={"address": address})
    assert "is not serving" in only(found["health"], "error")


def test_a_replica_that_is_gone(run, address):
    gone = unused()
    found = run(*MEETING, teacher={"address": [address, gone]})
    assert only(found["health"], "warning").startswith(f"{gone} does not answer")
    assert only(found["replicas"], "ok") == "one replica answers"
    assert only(run(*MEETING)["health"], "ok") == "1 replica serving"


def test_replicas_of_two_models(run):
    with serving(FakeTeacher(), FakeTeacher(revision="sha256:two")) as addresses:
        found = run(*KNOWING, teacher={"address": addresses})
    message = only(found["replicas"], "error")
    assert "sha256:one" in message and "sha256:two" in message
    assert only(found["health"], "ok") == "2 replicas serving"
    assert only(found["identity"], "skipped") == "cannot run: 'replicas' failed"


def test_replicas_of_one_model(run):
    with serving(FakeTeacher(), FakeTeacher()) as addresses:
        found = run(*MEETING, teacher={"address": addresses})
    assert only(found["replicas"], "ok") == "2 replicas of one revision"


# ------------------------------------------------------------------------------------ the right one


def test_another_revision_than_named(run, address, model):
    revision = load_model_directory(model).revision
    named = {"address": address, "revision": revision}
    assert "as named" in only(run(*KNOWING, teacher=named)["identity"], "ok")
    found = run(*KNOWING, teacher=named | {"revision": "sha256:other"})
    assert only(found["identity"], "error").startswith("teacher.revision is sha256:other, and")


def test_another_vocabulary(run):
    found = run(*KNOWING, vocabulary={"size": 40})
    assert "is not the teacher's" in only(found["identity"], "error")
    assert "served: true" in found["identity"][0].remedy
    assert only(run(*KNOWING, vocabulary={"served": True})["identity"], "ok")


def test_a_student_that_takes_more_than_its_teacher(run, plain):
    found = run(*KNOWING, model=plain["model"] | {"max_target_length": 200})
    assert "targets of 200 ids, the teacher scores 128" in only(found["limits"], "error")
    assert found["limits"][0].remedy == "set model.max_target_length=128"


def test_a_payload_that_is_not_offered(run, plain, tmp_path):
    it = Examination(make_config(plain), tmp_path)
    findings = examine(it, [c for c in CHECKS if c.name in KNOWING])
    for finding in findings:
        if finding.check == "identity":
            break
    told = replace(it.info, payloads={"argmax": ("float16",)})
    it.met = [replace(it.met[0], info=told)]
    message = only(teacher.limits(it), "error")
    assert message == "method imitkd-full asks for payload top-k, the teacher offers argmax"
    findings.close()


# ------------------------------------------------------------------------------------------ answers


def test_training_pairs_are_scored(run):
    found = run(*ANSWERING)
    assert "8 training pairs scored" in only(found["answers"], "ok")


def test_references_that_the_teacher_finds_absurd(run, tmp_path, model):
    """A teacher that writes the end symbol and nothing else."""
    directory = tmp_path / "ends"
    loaded = load_model_directory(model)
    with torch.no_grad():
        loaded.model.logit_bias[loaded.vocabulary.eos_id] += 60.0
    save_model_directory(directory, loaded.model, loaded.vocabulary, name="ends", card="")
    with ServerThread(tiny_config(directory)) as server:
        found = run(*ANSWERING, teacher={"address": server.address})
    assert "less than any id drawn by lot" in only(found["answers"], "warning")


def test_a_store_with_all_pairs_and_one_that_lacks_some(run, corpus, address, tmp_path):
    some, every = tmp_path / "some", tmp_path / "every"
    with TeacherClient(address) as client:
        score_corpus(client, corpus, "train", some, TopKSpec(8), 1.0, sentences=100)
        score_corpus(client, corpus, "train", every, TopKSpec(8), 1.0)
    change = {"method": "word-kd", "vocabulary": {"served": True}}
    found = run(*ANSWERING, "directory", "scores", teacher={"store": str(every)}, **change)
    assert only(found["teacher"], "ok").startswith("store ")
    assert only(found["answers"], "ok") and only(found["health"], "skipped")
    found = run(*ANSWERING, teacher={"store": str(some)}, **change)
    assert "lacks 50 of the 150 training pairs" in only(found["answers"], "error")
    assert "score-corpus" in found["answers"][0].remedy
    found = run(*ANSWERING, teacher={"store": str(tmp_path / "none")}, **change)
    assert only(found["teacher"], "error")


# -------------------------------------------------------------------- against the teacher's weights


def test_served_scores_equal_local_ones(run):
    found = run(*COMPARING)
    assert severities(found)["scores"] == "ok"
    assert found["scores"][0].facts["largest_difference"] < 1e-4
    assert [str(f.severity) for f in found["divergence"]] == ["ok"] * 4
    assert all(
        abs(f.facts["kl"]) < 1e-4 and f.facts["positions"] >= 16 for f in found["divergence"]
    )


def test_a_narrower_dtype_is_told(run, model):
    with ServerThread(tiny_config(model, dtype="bf16")) as server:
        found = run(*COMPARING, teacher={"address": server.address})
    assert "differ by at most" in only(found["scores"], "warning")
    assert "--dtype fp32" in found["scores"][0].remedy


def test_a_service_that_does_not_say_what_its_weights_say(plain, tmp_path):
    """The weights loaded here are changed after they were recognised."""
    it = Examination(make_config(plain), tmp_path)
    findings = examine(it, [c for c in CHECKS if c.name in COMPARING])
    for finding in findings:
        if finding.check == "directory":
            assert finding.severity == "ok"
            break
    with torch.no_grad():
        it.local.model.logit_bias += torch.linspace(-3, 3, len(it.local.model.logit_bias))
    assert "differ by at most" in only(agreement.scores(it), "error")
    it.severities["scores"] = it.severities["lines"]
    kinds = agreement.divergence(it)
    assert [str(f.severity) for f in kinds] == ["error"] * 4
    assert all(f.facts["kl"] > 0.01 and f.remedy for f in kinds)
    findings.close()


def test_sources_alone_are_compared_on_what_the_student_writes(run, corpus, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "validation.jsonl").write_text((corpus / "validation.jsonl").read_text())
    records = [{"source": line, "references": []} for line in tiny_text(30)]
    (bare / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = run(
        *(*COMPARING, "vocabulary", "identity", "lengths", "answers"),
        corpus={"path": str(bare)},
        mixing={"schedule": "constant", "value": 0.0},
    )
    assert only(found["scores"], "skipped") == "cannot run: the corpus has no references"


def test_a_directory_that_is_not_at_hand_or_another(plain, tmp_path, tiny_teacher):
    served = plain | {"vocabulary": {"served": True}}

    def findings(directory: Path | None) -> dict[str, Finding]:
        it = Examination(make_config(served), tmp_path, directory)
        checks = [c for c in CHECKS if c.name in COMPARING]
        return {finding.check: finding for finding in examine(it, checks)}

    found = findings(None)
    assert str(found["directory"].severity) == "skipped"
    assert "--teacher-directory" in found["directory"].remedy
    assert found["scores"].message == "cannot run: 'directory' was skipped"
    found = findings(tiny_teacher)
    assert str(found["directory"].severity) == "error"
    found = findings(tmp_path / "nothing")
    assert "is no model directory" in found["directory"].message


def test_the_divergence_of_labels_by_hand():
    probabilities = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    labels = TeacherLabels(
        positions=torch.arange(2).numpy(),
        ids_QK=torch.tensor([[0, 1], [0, 2]], dtype=torch.int32).numpy(),
        log_probs_QK=torch.stack([probabilities[0, :2], probabilities[1, [0, 2]]]).log().numpy(),
        tail_log_mass_Q=torch.tensor([0.25, 0.0]).log().numpy(),
    )
    found = agreement.kl_of_labels(labels, student.log())
    # 1/2 ln 2 + 1/4 ln 1 + 1/4 ln(1/4 / 1/2); ln 2.
    expected = torch.tensor([0.25, 1.0]).double() * torch.tensor(2.0).double().log()
    torch.testing.assert_close(found, expected)


def test_what_a_check_needs_must_have_been_there(plain, tmp_path):
    with pytest.raises(CannotRun, match="'directory' was skipped"):
        agreement.scores(Examination(make_config(plain), tmp_path))
