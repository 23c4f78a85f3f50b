"""The exposure-bias picture against slow forward passes, over a real teacher service."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from imitkd.analysing import ANALYSIS_FILE, Question, analyse_runs
from imitkd.cli.main import main
from imitkd.exposure import SHARES, Exposure, begun, divergence, length_bins
from seq2seq.checkpoint import load_model_directory, save_model_directory
from seq2seq.corpus import Example, read_split
from seq2seq.decoding import LengthLimit
from seq2seq.errors import UserError
from seq2seq.metrics import score_translations
from student_trainer.config import dump_config, make_config
from teacher_service.client import TeacherClient
from teacher_service.server import ServerThread
from tests import oracles
from tests.builders import sentences, tiny_model, tiny_vocabulary
from tests.unit.teacher_service.support import tiny_config

LIMIT = LengthLimit(ratio=1.0, offset=2, cap=16)


@pytest.fixture(scope="module")
def address(tiny_teacher: Path) -> Iterator[str]:
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=2048)) as server:
        yield server.address


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = tiny_vocabulary()
    limits = {"max_source_length": 128, "max_target_length": 128}
    model = tiny_model(3, vocab_size=vocabulary.size, kind="recurrent", **limits)
    path = tmp_path_factory.mktemp("student") / "student"
    save_model_directory(path, model, vocabulary, name="s", card="", dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def examples(tiny_corpus: Path) -> list[Example]:
    return read_split(tiny_corpus, "train")[:12]


@pytest.fixture(scope="module")
def found(address: str, student: Path, examples: list[Example]) -> dict[str, Any]:
    with TeacherClient(address) as client:
        return Exposure(client, examples, limit=LIMIT).analyse(student)


def kl(teacher: list[float], student: list[float]) -> float:
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(teacher, student, strict=True))


def test_divergence_is_its_formula() -> None:
    teacher, model = tiny_model(1), tiny_model(2)
    sources, targets = sentences(1, [4, 7]), sentences(2, [5, 2])
    rows = [
        log_probs
        for source, target in zip(sources, targets, strict=True)
        for log_probs in oracles.distributions(teacher, source, target)
    ]
    expected = [
        kl(p, q)
        for source, target, offset in zip(sources, targets, (0, 5), strict=True)
        for p, q in zip(rows[offset:], oracles.distributions(model, source, target), strict=False)
    ]
    found = divergence(model, sources, targets, torch.tensor(rows))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert float(divergence(teacher, sources, targets, torch.tensor(rows)).abs().max()) < 1e-5


def test_what_the_teacher_rules_out_adds_nothing() -> None:
    model, sources, targets = tiny_model(2), sentences(1, [3]), [[5]]
    certain = torch.full((1, 12), -torch.inf)
    certain[0, 5] = 0.0
    (log_probs,) = oracles.distributions(model, sources[0], targets[0])
    assert float(divergence(model, sources, targets, certain)) == pytest.approx(-log_probs[5])


def test_divergence_by_position(
    found: dict[str, Any], tiny_teacher: Path, student: Path, examples: list[Example]
) -> None:
    teacher, directory = load_model_directory(tiny_teacher).model, load_model_directory(student)
    vocabulary = directory.vocabulary
    sources = [vocabulary.encode_source(e.source) for e in examples]
    given = [vocabulary.encode_target(e.references[0]) for e in examples]
    own = [oracles.greedy(directory.model, s, LIMIT.of(len(s))) for s in sources]
    for name, targets in (("kl_reference_prefixes", given), ("kl_own_prefixes", own)):
        assert found[name], name
        for point in found[name]:
            t = point["position"]
            reach = [i for i, target in enumerate(targets) if len(target) > t]
            assert point["sentences"] == len(reach) >= 10
            values = [
                kl(
                    oracles.next_log_probs(teacher, sources[i], targets[i][:t]),
                    oracles.next_log_probs(directory.model, sources[i], targets[i][:t]),
                )
                for i in reach
            ]
            assert point["kl"] == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert [p["position"] for p in found[name]] == list(range(len(found[name])))


def test_what_the_student_begins_the_teacher_finishes(
    found: dict[str, Any], tiny_teacher: Path, student: Path, examples: list[Example]
) -> None:
    teacher, directory = load_model_directory(tiny_teacher).model, load_model_directory(student)
    vocabulary, references = directory.vocabulary, [e.references for e in examples]
    sources = [vocabulary.encode_source(e.source) for e in examples]
    own = [oracles.greedy(directory.model, s, LIMIT.of(len(s))) for s in sources]
    texts = [vocabulary.decode(ids) for ids in own]
    assert found["quality"] == pytest.approx(score_translations(texts, references).bleu)
    assert [point["share"] for point in found["teacher_finishes"]] == list(SHARES)
    for point in found["teacher_finishes"]:
        finished = []
        for source, ids in zip(sources, own, strict=True):
            limit = LIMIT.of(len(source))
            prefix = begun(ids, point["share"], vocabulary.eos_id)[: limit - 1]
            finished.append(vocabulary.decode(oracles.greedy(teacher, source, limit, prefix)))
        assert point["quality"] == pytest.approx(score_translations(finished, references).bleu)


def test_quality_by_length_covers_every_sentence(found: dict[str, Any]) -> None:
    bins = found["by_length"]
    assert sum(b["sentences"] for b in bins) == found["sentences"] == 12
    assert all(a["high"] < b["low"] for a, b in pairwise(bins))


def test_begun() -> None:
    assert begun([5, 6, 7, 8, 1], 0.5, 1) == [5, 6]
    assert begun([5, 6, 7, 8, 1], 1.0, 1) == [5, 6, 7, 8]
    assert begun([5, 6], 1.0, 1) == [5, 6]
    assert begun([1], 0.75, 1) == begun([5, 6, 1], 0.0, 1) == []


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 1, 3, 2, 4, 6], [[1, 3], [2, 4], [0, 5]]),
        ([2, 2, 2, 2], [[0, 1, 2, 3]]),
        ([1, 2, 2, 2, 3, 4], [[0, 1, 2, 3], [4, 5]]),
        ([7], [[0]]),
    ],
)
def test_bins_never_part_one_length(lengths: list[int], expected: list[list[int]]) -> None:
    assert length_bins(lengths, 3) == expected


@pytest.fixture
def run(tmp_path: Path, student: Path, plain_config: dict[str, Any], address: str) -> Path:
    (tmp_path / "run").mkdir()
    config = make_config(plain_config | {"method": "imitkd", "teacher": {"address": address}})
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    (tmp_path / "run" / "student").symlink_to(student)
    return tmp_path / "run"


def test_the_command_writes_a_file_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["analyse", str(run), "--split", "validation", "--sentences", "6"])
    assert not ended.value.code, capsys.readouterr().err
    said = json.loads((run / ANALYSIS_FILE).read_text())
    assert (said["method"], said["split"], said["sentences"]) == ("imitkd", "validation", 6)
    assert f"BLEU {said['quality']:.1f}; from half way on the teacher's" in capsys.readouterr().out


def test_faults_are_one_line(run: Path, tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="is no finished run"):
        analyse_runs([tmp_path], Question())
    text = (run / "config.yaml").read_text().replace("method: imitkd\n", "method: vanilla\n")
    start = text.index("teacher:\n  address")
    end = text.index("validation:")
    (run / "config.yaml").write_text(text[:start] + text[end:])
    with pytest.raises(UserError, match="names no teacher that answers; give --teacher"):
        analyse_runs([run], Question(split="validation"))
    other = tiny_vocabulary(40)
    model = tiny_model(3, vocab_size=other.size)
    (run / "student").unlink()
    save_model_directory(run / "student", model, other, name="o", card="")
    with pytest.raises(UserError, match="has another vocabulary than teacher tiny"):
        analyse_runs([run], Question(split="validation", address=[address]))
