"""Checks that need no teacher: each where all is well, and where it is not."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imitkd.doctor import duration, files, machine
from imitkd.doctor.checks import CHECKS
from imitkd.doctor.examination import Examination, examine
from imitkd.doctor.findings import Finding
from student_trainer.config import make_config
from student_trainer.training import train
from student_trainer.types import StepReport
from tests.builders import tiny_text

Config = dict[str, Any]
Run = Callable[..., dict[str, list[Finding]]]


@pytest.fixture
def run(plain_config: Config, tmp_path: Path) -> Run:
    """Findings by check of some checks of a changed configuration."""

    def of(
        *names: str, output: Path | None = None, rate: float | None = None, **change: Any
    ) -> dict[str, list[Finding]]:
        config = make_config(plain_config | change)
        it = Examination(config, output or tmp_path / "run", target_rate=rate)
        found: dict[str, list[Finding]] = {}
        for finding in examine(it, [c for c in CHECKS if c.name in names]):
            found.setdefault(finding.check, []).append(finding)
        return found

    return of


def write(directory: Path, **splits: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """A corpus section."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"source": s, "references": r}) + "\n" for s, r in rows]
        (directory / f"{split}.jsonl").write_text("".join(lines))
    return {"path": str(directory)}


def pairs(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    return [(line, [line]) for line in tiny_text(count, seed)]


def one(findings: list[Finding]) -> tuple[str, str]:
    assert len(findings) == 1, findings
    assert findings[0].severity in ("ok", "skipped") or findings[0].remedy
    return str(findings[0].severity), findings[0].message


# --------------------------------------------------------------------------------------- the corpus


def test_lines_of_a_whole_corpus(run, tmp_path):
    corpus = write(tmp_path / "c", train=pairs(9), validation=pairs(120), test=pairs(3))
    validation = {"sentences": 110}
    found = run("lines", corpus=corpus, validation=validation)["lines"]
    assert one(found) == ("ok", "9 train, 3 test, 120 validation")
    assert found[0].facts["validated"] == 110


def test_a_corpus_that_is_not_there(run, tmp_path):
    severity, message = one(run("lines", corpus={"path": str(tmp_path)})["lines"])
    assert severity == "error" and "train.jsonl does not exist" in message


def test_few_validation_sentences_are_noise(run):
    first, second = run("lines")["lines"]
    assert first.severity == "ok"
    assert second.severity == "warning" and "BLEU on 4 sentences" in second.message


@pytest.mark.parametrize(("value", "severity"), [(0.0, "ok"), (0.5, "error")])
def test_sources_alone_are_for_methods_that_take_them(run, tmp_path, value, severity):
    bare = [(line, list[str]()) for line in tiny_text(5)]
    found = run(
        "lines",
        corpus=write(tmp_path / "c", train=bare, validation=pairs(120)),
        validation={"sentences": 100},
        method="imitkd-full",
        teacher={"address": "127.0.0.1:1"},
        mixing={"schedule": "constant", "value": value},
    )["lines"]
    assert one(found)[0] == severity
    assert "have no reference" in found[0].message


LENGTHS = ("vocabulary", "lines", "lengths", "pieces")


def test_lengths_and_pieces_of_text_that_fits(run):
    found = run(*LENGTHS)
    severity, message = one(found["lengths"])
    assert severity == "ok" and message.endswith("none left out")
    assert one(found["pieces"]) == ("ok", "0.000% of all training ids are unknown")


@pytest.mark.parametrize(("long", "severity"), [(1, "ok"), (9, "warning"), (60, "error")])
def test_sentences_that_are_left_out(run, tmp_path, long, severity):
    rows = pairs(140) + [(f"{'ab ' * 200}", ["ab"])] * long
    found = run(*LENGTHS, corpus=write(tmp_path / "c", train=rows, validation=pairs(4)))
    finding = found["lengths"][0]
    assert finding.severity == severity
    assert finding.facts["left_out"] == long and f"{long:,} of {140 + long}" in finding.message


def test_all_sentences_too_long(run, tmp_path):
    rows = [("ab " * 200, ["ab"])]
    found = run(*LENGTHS, corpus=write(tmp_path / "c", train=rows, validation=pairs(4)))
    assert one(found["lengths"])[0] == "error"
    assert one(found["pieces"]) == ("skipped", "cannot run: 'lengths' failed")


@pytest.mark.parametrize(("cap", "count"), [(32, 1), (3, 2)])
def test_references_longer_than_the_student_may_write(run, cap, count):
    limit = {"ratio": 1.0, "offset": 4, "cap": cap}
    found = run(
        *LENGTHS,
        method="imitkd-full",
        teacher={"address": "127.0.0.1:1"},
        rollout={"limit": limit},
    )["lengths"]
    assert len(found) == count
    if count == 2:
        assert found[1].severity == "warning"
        assert found[1].facts["references_over_the_limit"] > 0.5


@pytest.mark.parametrize(("strange", "severity"), [(1, "warning"), (60, "error")])
def test_pieces_that_the_vocabulary_lacks(run, tmp_path, strange, severity):
    rows = pairs(60) + [("語語", ["語"])] * strange
    found = run(*LENGTHS, corpus=write(tmp_path / "c", train=rows, validation=pairs(4)))
    assert one(found["pieces"])[0] == severity


def test_splits_that_share_text(run, tmp_path):
    train = [(f"set {word}", ["x"]) for word in ("alpha", "beta", "gamma")]
    others = [(f"other {word}", ["x"]) for word in "abcdefghij"]
    apart = write(tmp_path / "apart", train=train, validation=others[:4])
    assert one(run("lines", "overlap", corpus=apart)["overlap"])[0] == "ok"
    corpus = write(
        tmp_path / "shared",
        train=train,
        validation=[("SET alpha!", ["x"]), *others],
        test=[("set beta", ["x"])],
    )
    test, validation = run("lines", "overlap", corpus=corpus)["overlap"]
    assert (validation.severity, validation.facts["shared"]) == ("warning", 1)
    assert test.severity == "error" and "1 of 1 test sources" in test.message


# -------------------------------------------------------------------------------------- the machine


def test_a_device_that_is_there(run):
    assert one(run("device")["device"])[0] == "ok"


def test_a_device_that_is_not_there(run):
    severity, message = one(run("device", device="cuda:7")["device"])
    assert severity == "error" and "'cuda:7' is not usable" in message


def test_more_threads_than_cores_and_bf16_on_a_cpu(run, monkeypatch):
    monkeypatch.setattr(machine, "cores_here", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = run("device", runtime="ray", workers=4, worker_threads=2, precision="bf16")["device"]
    assert [f.severity for f in found] == ["warning", "warning"]
    assert "bf16" in found[0].message and found[1].facts == {"threads": 9, "cores": 2}
    assert one(run("device", runtime="ray", workers=3)["device"])[0] == "ok"
    (several,) = run("device", runtime="ray", workers=3, learner_processes=2)["device"]
    assert several.severity == "warning" and several.facts["threads"] == 5
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    assert one(run("device", runtime="ray", workers=100)["device"])[0] == "ok"


def test_ray_is_not_looked_at_inline(run):
    assert one(run("ray")["ray"]) == ("skipped", "runtime inline runs without Ray")


def test_ray_has_room_or_not(run, monkeypatch):
    cluster = pytest.importorskip("student_trainer.ray_runtime.cluster")
    closed: list[bool] = []

    class Joined:
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(cluster, "connect", Joined)
    monkeypatch.setattr(cluster, "resources", lambda: (2, {"CPU": 3.0}))
    monkeypatch.setattr(cluster, "home", lambda: cluster.Home("ab" * 28, cpus=1.0, gpus=0.0))
    severity, message = one(run("ray", runtime="ray", workers=2)["ray"])
    assert severity == "ok" and "2 nodes, 3 CPUs, 0 GPUs" in message
    severity, message = one(run("ray", runtime="ray", workers=3)["ray"])
    assert severity == "warning" and "need 4 CPUs, the Ray cluster has 3; the run w" in message
    severity, message = one(run("ray", runtime="ray", device="cuda")["ray"])
    assert severity == "error" and "no GPU" in message
    assert closed == [True, True, True]


# ----------------------------------------------------------------------------------------- the disk


def test_the_run_directory(run, tmp_path, plain_config):
    assert one(run("output")["output"])[0] == "ok"
    (tmp_path / "file").write_text("")
    severity, message = one(run("output", output=tmp_path / "file" / "run")["output"])
    assert severity == "error" and "cannot be written to" in message
    (tmp_path / "run").mkdir()
    assert one(run("output")["output"])[0] == "ok"
    (tmp_path / "run" / "config.yaml").write_text("")
    severity, message = one(run("output")["output"])
    assert severity == "warning" and "holds a run" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("share", "severity"), [(3.0, "ok"), (1.5, "warning"), (0.5, "error")])
def test_room_on_the_disk(run, monkeypatch, share, severity):
    needed = run("vocabulary", "disk")["disk"][0].facts["needed_bytes"]
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(int(share * needed)))
    assert one(run("vocabulary", "disk")["disk"])[0] == severity


@pytest.mark.parametrize("rollout", [{}, {"pool": 2, "lag": 4}])
def test_the_bytes_foretold_cover_those_of_a_run(run, plain_config, tmp_path, rollout):
    """Versions for batches to come are in the checkpoints of methods that write nothing too."""
    change = {"optimiser": {"steps": 6, "average": 0.9}, "checkpoint_every": 2}
    change |= {"rollout": plain_config["rollout"] | rollout}
    needed = run("vocabulary", "disk", **change)["disk"][0].facts["needed_bytes"]
    train(make_config(plain_config | change), tmp_path / "run")
    where = tmp_path / "run"
    tensors = sum(os.path.getsize(file) for file in where.rglob("*.safetensors"))
    ids = sum(os.path.getsize(file) for file in (where / "tokens").iterdir())
    assert tensors + ids <= needed <= 4 * tensors


# ------------------------------------------------------------------------------------- the duration


def report(generate: float, score: float, learn: float) -> StepReport:
    fields = dict.fromkeys(StepReport.__annotations__, 0)
    seconds = {"generate_s": generate, "score_s": score, "learn_s": learn}
    return StepReport(**fields | seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "shortest", "longest"),
    [
        ({}, 4.0, 4.0),
        # Of 2 s of writing two workers make 1 s; 2 + 1 s of work on four cores take 0.75 s.
        ({"runtime": "ray", "workers": 2}, 1.0, 4.0),
        # A batch is one shard, and nothing is written ahead: one worker works.
        ({"runtime": "ray", "workers": 2, "batch": {"sentences": 8}}, 2.0, 4.0),
        ({"runtime": "ray", "workers": 2, "worker_threads": 8}, 4.0, 4.0),
        # The learner's 1 s bounds, then the work: 3 s on four cores.
        ({"runtime": "ray", "workers": 8, "rollout": {"pool": 4}}, 1.0, 4.0),
        (
            {"runtime": "ray", "workers": 8, "rollout": {"pool": 4}, "learner_processes": 2},
            0.75,
            4.0,
        ),
    ],
)
def test_stages_overlap_under_ray(plain_config, change, shortest, longest):
    config = make_config(
        plain_config | {"optimiser": {"steps": 10}, "validation": {"every": 4}} | change
    )
    reports = [report(1.0, 1.0, 0.5), report(3.0, 1.0, 1.5)]
    found = duration.estimate(config, reports, validation_s=7.0, cores=4)
    assert (found.generate_s, found.score_s, found.learn_s) == (2.0, 1.0, 1.0)
    assert found.shortest_s == pytest.approx(10 * shortest + 3 * 7)
    assert found.longest_s == pytest.approx(10 * longest + 3 * 7)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (95, "1.6 min"), (7200, "2.0 h"), (1e6, "11.6 days")]
)
def test_times_for_people(seconds, text):
    assert duration.time_of(seconds) == text


PROBE = (*LENGTHS, "device", "duration")


def test_a_probe_writes_nothing(run, tmp_path, plain_config):
    before = sorted(tmp_path.rglob("*"))
    found = run(*PROBE)["duration"]
    assert one(found)[0] == "ok" and found[0].facts["steps_tried"] == 4
    assert found[0].facts["learn_s"] > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_months_is_told(run):
    severity, message = one(run(*PROBE, optimiser={"steps": 10**11})["duration"])
    assert severity == "warning" and "days" in message


@pytest.mark.parametrize(("steps", "tried"), [(1, 1), (2, 1), (3, 2)])
def test_a_run_shorter_than_the_probe(run, steps, tried):
    found = run(*PROBE, optimiser={"steps": steps, "warmup": 0})["duration"]
    assert one(found)[0] == "ok" and found[0].facts["steps_tried"] == tried


def test_numbers_for_a_learner_at_full_use(run):
    (numbers,) = run(*PROBE, "sizing")["sizing"]
    assert numbers.severity == "ok" and "one learner at full use" in numbers.message
    facts = numbers.facts
    assert (facts["workers"], facts["replicas"], facts["learners"]) == (1, 0, 1)
    assert f"{facts['sentences_per_s']:.3g} sentences/s" in numbers.message


def test_numbers_for_a_rate_and_what_bounds_the_run_as_it_is(run):
    fixed = replace(report(9.0, 2.0, 0.5), sentences=8, scored_sentences=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duration, "_steps", lambda it: [fixed])
        patch.setattr(duration, "_validation_s", lambda it: 0.0)
        changes = {"runtime": "ray", "workers": 3, "rollout": {"pool": 4, "lag": 4}}
        numbers, now = run(*PROBE, "sizing", rate=4 * fixed.sentences, **changes)["sizing"]
        (impossible,) = run(*PROBE, "sizing", rate=1e6, **changes)["sizing"]
        patch.setattr(duration, "_steps", lambda it: [replace(fixed, learn_s=0.0)])
        (undriven,) = run(*PROBE, "sizing", **changes)["sizing"]
    # Four batches a second: 36 s of writing and 8 s of scoring at four fifths, two steps at once.
    facts = [numbers.facts[name] for name in ("workers", "replicas", "learners")]
    assert facts == [45, 10, 3]
    assert "as asked for" in numbers.message
    assert now.facts["bound"] == "workers"
    assert now.facts["sentences_per_s"] == pytest.approx(fixed.sentences / 3)
    times = [numbers.facts[name] for name in ("generate_s", "score_s", "learn_s")]
    assert times == [9.0, 2.0, 0.5] and numbers.facts["sentences_a_batch"] == 8
    for finding, begins in (
        (impossible, "1e+06 sentences/s (as asked for): 1.25e+05 batches/s "),
        (undriven, "2.67e+03 sentences/s (one learner at full use): 333 batches/s "),
    ):
        assert finding.severity == "warning" and finding.message.startswith(begins)
        assert finding.message.endswith("make batches larger") and "\n" not in finding.message


def test_a_gpu_that_only_the_cluster_has(run):
    severity, message = one(run(*PROBE, runtime="ray", device="cuda:7")["duration"])
    assert severity == "skipped" and "cuda:7 is not on this machine" in message


def test_a_loss_that_is_not_finite_is_told(run):
    optimiser = {"steps": 8, "learning_rate": 1e38, "warmup": 0}
    severity, message = one(run(*PROBE, optimiser=optimiser)["duration"])
    assert severity == "error" and "gradient norm" in message
