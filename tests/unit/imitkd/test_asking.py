"""Asking a teacher in text, over a real connection, against its model asked slowly."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imitkd.asking import (
    ScoredPosition,
    connect,
    generate_lines,
    mode_of,
    print_replicas,
    print_scores,
    score_text,
    served_vocabulary,
)
from imitkd.cli.main import main
from seq2seq.checkpoint import ModelDirectory, load_model_directory
from seq2seq.decoding import Beam, Greedy, generate
from seq2seq.errors import UserError
from teacher_service import codec, errors
from teacher_service.client import TeacherClient
from teacher_service.server import ServerThread
from tests.fake_teacher import FakeTeacher, serving
from tests.unit.teacher_service.support import slow_log_probs, tiny_config


@pytest.fixture(scope="module")
def client(tiny_teacher: Path) -> Iterator[TeacherClient]:
    config = tiny_config(tiny_teacher, batch_tokens=1024)
    with ServerThread(config) as server, connect(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path) -> ModelDirectory:
    return load_model_directory(tiny_teacher)


def test_the_vocabulary_is_the_teachers(client: TeacherClient, teacher: ModelDirectory) -> None:
    assert served_vocabulary(client).fingerprint == teacher.vocabulary.fingerprint


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_scores_are_the_models(
    client: TeacherClient, teacher: ModelDirectory, temperature: float
) -> None:
    positions = score_text(client, "abc de", "fg ab", 3, temperature)
    vocabulary = teacher.vocabulary
    target = vocabulary.encode_target("fg ab")
    source = vocabulary.encode_source("abc de")
    expected = slow_log_probs(teacher.model, source, target, temperature)
    assert [p.piece for p in positions] == [vocabulary.piece(i) for i in target]
    for position, row, token in zip(positions, expected, target, strict=True):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:3]
        assert [c for c, _ in position.candidates] == [vocabulary.piece(i) for i in best]
        # Log-probs travel as float16.
        assert [x for _, x in position.candidates] == pytest.approx(row[best], abs=0.01)
        assert position.log_prob == pytest.approx(row[token], abs=0.01)
        rest = np.log(np.exp(np.delete(row, best)).sum())
        assert position.tail_log_mass == pytest.approx(rest, abs=0.01)


def test_more_candidates_than_pieces_is_all_of_them(
    client: TeacherClient, teacher: ModelDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (position,) = score_text(client, "ab", "", 10_000, 1.0)
    assert len(position.candidates) == teacher.vocabulary.size
    print_scores([position], as_json=True)
    assert json.loads(capsys.readouterr().out)["positions"][0]["tail_log_mass"] is None


def test_printed_scores(capsys: pytest.CaptureFixture[str]) -> None:
    positions = [
        ScoredPosition("▁a", -0.5, [("▁a", -0.5), ("b", math.log(0.25))], -2.0),
        ScoredPosition("</s>", -1.0, [("</s>", -1.0)], -0.25),
    ]
    print_scores(positions, as_json=False)
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.split() == ["▁a", "-0.500", "▁a", "0.607", "b", "0.250"]
    assert second.split() == ["</s>", "-1.000", "</s>", "0.368"]
    assert total.split() == ["total", "-1.500"]
    print_scores(positions, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["log_prob"] == -1.5
    assert found["positions"][1] == {
        "piece": "</s>",
        "log_prob": -1.0,
        "candidates": [{"piece": "</s>", "log_prob": -1.0}],
        "tail_log_mass": -0.25,
    }


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ((1, 1, False, 5, 1.0, 1), codec.Greedy()),
        ((4, 2, False, 5, 1.0, 1), codec.Beam(4, 2)),
        ((1, 1, True, 7, 0.5, 3), codec.Sample(7, 0.5, 3)),
    ],
)
def test_flags_mean_a_mode(flags: tuple[int, int, bool, int, float, int], mode: object) -> None:
    assert mode_of(*flags) == mode


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ((3, 1, True, 5, 1.0, 1), "--sample and --beam exclude each other"),
        ((2, 3, False, 5, 1.0, 1), "--n-best 3 needs --beam 3 or more"),
    ],
)
def test_flags_that_contradict(flags: tuple[int, int, bool, int, float, int], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        mode_of(*flags)


def ask(
    client: TeacherClient, mode: codec.Greedy | codec.Sample | codec.Beam, text: str, batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        generate_lines(client, mode, batch)


def test_lines_come_back_in_order_with_their_hypotheses(
    client: TeacherClient, teacher: ModelDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["abc", "", "de fg ab", "a b c d", "hh"]
    ask(client, codec.Beam(3, 2), "\n".join(lines), 2)
    vocabulary = teacher.vocabulary
    sources = [vocabulary.encode_source(line) for line in lines]
    found = generate(teacher.model, sources, Beam(3, 2))
    expected = ["\t".join(vocabulary.decode(h.ids) for h in hypotheses) for hypotheses in found]
    assert capsys.readouterr().out.splitlines() == expected


def test_sampling_does_not_depend_on_the_batch(
    client: TeacherClient, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for batch in (2, 5):
        ask(client, codec.Sample(0, 1.0, seed=3), "ab\nab\nab\nab\nab\n", batch)
        outputs.append(capsys.readouterr().out.splitlines())
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) > 1


def test_an_over_long_line_loses_its_end(
    client: TeacherClient, teacher: ModelDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(client, codec.Greedy(), "ab\n" + "ab " * 200 + "\n", 64)
    out, err = capsys.readouterr()
    assert err.startswith("imitkd: line 2 has ") and err.count("\n") == 1
    ids = teacher.vocabulary.encode("ab " * 200)
    kept = [*ids[: teacher.model.config.max_source_length - 1], teacher.vocabulary.eos_id]
    ((found,),) = generate(teacher.model, [kept], Greedy())
    assert out.splitlines()[1] == teacher.vocabulary.decode(found.ids)


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(errors.TeacherSecretError, match=r"cannot read .*gone: No such file"),
        connect("127.0.0.1:1", tmp_path / "gone"),
    ):
        pass


def test_the_token_is_sent(tiny_teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open-sesame\n")
    config = tiny_config(tiny_teacher, token_file=tmp_path / "token")
    with ServerThread(config) as server:
        with connect(server.address, tmp_path / "token") as client:
            client.wait_ready(30)
            assert client.model_info().name == "tiny"
        with connect(server.address) as stranger, pytest.raises(errors.TeacherDenied):
            stranger.model_info()


def objects(text: str) -> list[dict[str, object]]:
    """Every JSON object of a text that holds nothing else."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


@pytest.mark.parametrize("written", ["repeated", "comma separated"])
def test_every_replica_is_printed(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeTeacher(), FakeTeacher()) as addresses:
        given = addresses if written == "repeated" else [",".join(addresses)]
        with pytest.raises(SystemExit) as done:
            main(["teacher", "info", *(part for a in given for part in ("--address", a))])
    assert done.value.code in (0, None)
    printed = objects(capsys.readouterr().out)
    assert [p["address"] for p in printed] == addresses
    assert {p["revision"] for p in printed} == {"sha256:one"}


def test_a_replica_that_is_away_is_told_after_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        serving(FakeTeacher()) as (address,),
        connect(["127.0.0.1:9", address]) as both,
        pytest.raises(errors.TeacherUnavailable, match=r"^127\.0\.0\.1:9 GetModelInfo"),
    ):
        print_replicas(both)
    first, second = objects(capsys.readouterr().out)
    assert "UNAVAILABLE" in str(first["error"]) and second["name"] == "fake"


def test_replicas_that_disagree_are_told_after_both(capsys: pytest.CaptureFixture[str]) -> None:
    teachers = FakeTeacher(), FakeTeacher(revision="sha256:two")
    with (
        serving(*teachers) as addresses,
        connect(addresses) as both,
        pytest.raises(errors.TeacherMismatch, match="must serve one model"),
    ):
        print_replicas(both)
    assert [p["revision"] for p in objects(capsys.readouterr().out)] == ["sha256:one", "sha256:two"]
