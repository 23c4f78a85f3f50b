"""`imitkd data distil` over a real service: the corpus it writes, interruptions, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imitkd.cli.main import main
from imitkd.corpora import Example, read_info
from imitkd.corpora.store import CorpusInfo, write_corpus
from imitkd.distilling.distil import Distilled, distil_corpus
from imitkd.distilling.reading import read_best
from imitkd.distilling.writing import TeacherWriter
from imitkd.score_corpus import score_corpus
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.decoding import Beam as LocalBeam
from seq2seq.decoding import LengthLimit as LocalLimit
from seq2seq.decoding import generate
from seq2seq.errors import UserError
from student_trainer.low_data import drawn
from student_trainer.served_vocabulary import served_vocabulary
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam, LengthLimit, TopKSpec
from teacher_service.errors import TeacherError
from teacher_service.score_store.stored_teacher import StoredTeacher
from teacher_service.server import ServerThread
from tests.builders import save_brief_teacher, tiny_text
from tests.unit.teacher_service.support import tiny_config

ROOT = Path(__file__).resolve().parents[2]
ROWS, PART = 24, 6
MODE = Beam(2, 2)
LIMIT = LengthLimit(2.0, 2, 20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources alone in train and validation; test has references."""
    lines = tiny_text(ROWS + 9, seed=5)
    info = CorpusInfo("tiny", "en", "de", "CC0", "a test", (), "sha256:1")
    path = tmp_path_factory.mktemp("distil") / "corpus"
    splits = {
        "train": [Example(line) for line in lines[:ROWS]],
        "validation": [Example(line) for line in lines[ROWS : ROWS + 6]],
        "test": [Example(line, ("a reference",)) for line in lines[ROWS + 6 :]],
    }
    write_corpus(path, info, splits)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brief_teacher(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(scope="module")
def address(teacher: Path) -> Iterator[str]:
    with ServerThread(tiny_config(teacher, deterministic=True)) as server:
        yield server.address


def run(address: str, corpus: Path, out: Path, mode: Beam = MODE, **change: Any) -> Distilled:
    with TeacherClient(address, timeout_s=20.0) as client:
        return distil_corpus(client, corpus, out, mode, limit=LIMIT, part_rows=PART, **change)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def whole(address: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distilled corpus, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = run(address, corpus, out)
    assert result.written == ROWS + 6 and result.known == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing else stays behind"
    return out


def test_the_corpus_is_what_the_teacher_writes_here(whole, corpus, teacher):
    directory = load_model_directory(teacher)
    vocabulary = directory.vocabulary
    rows = [json.loads(line) for line in (whole / "train.jsonl").read_text().splitlines()]
    by_source = {row["source"]: row for row in rows}
    left_out = 0
    for example in read_split(corpus, "train"):
        source = vocabulary.encode_source(example.source)
        found = generate(directory.model, [source], LocalBeam(2, 2), limit=LocalLimit(2.0, 2, 20))[
            0
        ]
        texts = dict.fromkeys(vocabulary.decode(h.ids) for h in found if h.finished)
        texts.pop("", None)
        if not texts:
            assert example.source not in by_source
            left_out += 1
            continue
        row = by_source[example.source]
        assert [c["text"] for c in row["candidates"]] == list(texts)
        assert row["references"] == []
        finished = next(h for h in found if h.finished and vocabulary.decode(h.ids))
        assert row["candidates"][0]["score"] == pytest.approx(finished.log_prob, abs=1e-4)
    assert len(rows) == ROWS - left_out > ROWS / 2
    assert any(len(row["candidates"]) > 1 for row in rows)


def test_other_splits_come_along_and_the_corpus_is_described(whole, corpus):
    assert (whole / "test.jsonl").read_bytes() == (corpus / "test.jsonl").read_bytes()
    rows = [json.loads(line) for line in (whole / "validation.jsonl").read_text().splitlines()]
    assert [r["references"] for r in rows] == [[r["candidates"][0]["text"]] for r in rows]
    info = read_info(whole)
    assert info.splits["train"] == len(read_split(whole, "train")) and info.splits["test"] == 3
    assert "sha256:" in info.origin and info.source_language == "en"


def test_a_corpus_that_is_there_is_not_written_again(whole, corpus, address, tmp_path):
    before = files(whole)
    again = run(address, corpus, whole)
    assert again.complete and again.written == 0 and files(whole) == before
    assert "was there already" in again.line()


_KILLED = """
import os, signal, sys
from pathlib import Path
from imitkd.distilling.distil import distil_corpus
from imitkd.distilling.writing import TeacherWriter
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam, LengthLimit
write, calls = TeacherWriter.write, []
def dies(self, examples, first):
    records = write(self, examples, first)
    calls.append(first)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return records
TeacherWriter.write = dies
with TeacherClient(sys.argv[1]) as client:
    limit = LengthLimit(2.0, 2, 20)
    distil_corpus(
        client, Path(sys.argv[2]), Path(sys.argv[3]), Beam(2, 2), limit=limit, part_rows=6
    )
"""


def test_killed_in_the_middle_it_loses_one_part_and_doubles_nothing(
    whole, corpus, address, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, address, str(corpus), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists() and (tmp_path / "out.distil").is_dir()
    asked: list[int] = []
    write = TeacherWriter.write

    def counted(self: TeacherWriter, examples: Any, first: int) -> Any:
        asked.append(len(examples))
        return write(self, examples, first)

    monkeypatch.setattr(TeacherWriter, "write", counted)
    result = run(address, corpus, out)
    assert result.known == 2 * PART and sum(asked) == ROWS + 6 - 2 * PART
    assert files(out) == files(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def half_done(corpus, address, tmp_path, monkeypatch) -> Path:
    """Where a distillation was interrupted after its first part."""
    write, calls = TeacherWriter.write, []

    def breaks(self: TeacherWriter, examples: Any, first: int) -> Any:
        calls.append(first)
        if len(calls) == 2:
            raise TeacherError("it went away")
        return write(self, examples, first)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherWriter, "write", breaks)
        with pytest.raises(TeacherError):
            run(address, corpus, tmp_path / "out")
    return tmp_path / "out"


def test_another_teacher_is_refused_and_nothing_is_lost(half_done, corpus, tmp_path):
    other = save_brief_teacher(tmp_path / "other", 8)
    parts = files(half_done.with_name("out.distil"))
    refusal = r"out.distil' was made with teacher sha256:.*answers"
    with ServerThread(tiny_config(other)) as server, pytest.raises(UserError, match=refusal):
        run(server.address, corpus, half_done)
    assert files(half_done.with_name("out.distil")) == parts


def test_another_decoding_is_refused(half_done, whole, corpus, address):
    for out in (half_done, whole):
        with pytest.raises(UserError, match=r"decoding mode=beam size=2 .*size=4 .*--out"):
            run(address, corpus, out, Beam(4, 1))


def test_a_corpus_that_changed_is_refused(half_done, corpus, address, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(corpus, changed)
    with open(changed / "train.jsonl", "a") as file:
        file.write('{"source": "ab", "references": []}\n')
    with pytest.raises(UserError, match="another text than the corpus holds now"):
        run(address, changed, half_done)


def test_a_place_with_something_else_is_left_alone(corpus, address, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        run(address, corpus, tmp_path)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def command(*arguments: object) -> int:
    """Exit code of ``imitkd data distil``."""
    with pytest.raises(SystemExit) as caught:
        main(["data", "distil", *map(str, arguments)])
    return int(caught.value.code or 0)


def test_a_teacher_that_ends_nothing_is_told(corpus, address, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(corpus, "--out", out, "--longest", 1, "--beam", 1, "--address", address) == 2
    assert "wrote no target of train (no hypothesis ended" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_keeps_references_and_tells_what_it_did(tmp_path, address, capsys):
    info = CorpusInfo("tiny", "en", "de", "CC0", "a test", (), "sha256:2")
    examples = [Example(line, ("one", "two")) for line in tiny_text(6, seed=9)]
    write_corpus(tmp_path / "mine", info, {"train": examples, "validation": examples[:2]})
    assert command(tmp_path / "mine", "--beam", 2, "--sentences", 4, "--address", address) == 0
    out, err = capsys.readouterr()
    assert "the teacher wrote 4 targets in" in out
    distilled = tmp_path / "mine-distilled"
    rows = [json.loads(line) for line in (distilled / "train.jsonl").read_text().splitlines()]
    taken = [e.source for e, own in zip(examples, drawn(6, 4), strict=True) if own]
    assert taken != [e.source for e in examples[:4]]
    assert 0 < len(rows) <= 4 and {r["source"] for r in rows} <= set(taken)
    assert all(r["references"] == ["one", "two"] for r in rows)
    assert all(len(r["candidates"]) == 1 for r in rows)
    assert (f"left out: {4 - len(rows)}" in err) == (len(rows) < 4)
    assert read_split(distilled, "validation") == examples[:2]


def test_candidates_can_be_scored_into_a_store(whole, corpus, address, tmp_path):
    with TeacherClient(address) as client:
        answer = score_corpus(
            client, whole, "train", tmp_path / "s", TopKSpec(4), 1.0, candidates=True
        )
        vocabulary = served_vocabulary(client)
    rows = [json.loads(line) for line in (whole / "train.jsonl").read_text().splitlines()]
    sources = [vocabulary.encode_source(row["source"]) for row in rows]
    targets = [vocabulary.encode_target(row["candidates"][0]["text"]) for row in rows]
    store = StoredTeacher(tmp_path / "s")
    assert (store.find(sources, targets) >= 0).all() and answer.pairs == len(rows)
    store.close()
    with pytest.raises(UserError, match=r"train.jsonl:1 has no 'candidates' of a teacher; have"):
        read_best(corpus, "train")
