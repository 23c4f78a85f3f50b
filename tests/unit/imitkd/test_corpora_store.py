"""The corpus directory: round trip, nothing half-written, nothing of the user's overwritten."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from imitkd.corpora import store
from imitkd.corpora.store import CorpusInfo, kept, read_info, write_corpus
from seq2seq.corpus import Example, read_split
from seq2seq.errors import UserError

INFO = CorpusInfo("tiny", "en", "de", "CC0", "a test", ("none",), "sha256:1", ("a note",))
SPLITS = {
    "train": [Example("a \u2028 ü", ("b", "c")), Example("source only")],
    "test": [Example("x", ("y",))],
}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    written = write_corpus(tmp_path / "deep" / "corpus", INFO, SPLITS)
    directory = tmp_path / "deep" / "corpus"
    assert read_info(directory) == written
    assert written.splits == {"train": 2, "test": 1}
    assert written.notes == ("a note",)
    assert {name: list(read_split(directory, name)) for name in SPLITS} == SPLITS
    row = json.loads((directory / "train.jsonl").read_text("utf-8").split("\n")[0])
    assert row == {"source": "a \u2028 ü", "references": ["b", "c"]}
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]


def test_full_disk_leaves_the_earlier_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", INFO, SPLITS)

    def full(path: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "file_sha256", full)
    with pytest.raises(UserError, match=r"No space left on device.*make room"):
        write_corpus(tmp_path / "corpus", INFO, {"train": []})
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert len(list(read_split(tmp_path / "corpus", "train"))) == 2


def test_failed_move_puts_the_earlier_corpus_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", INFO, SPLITS)
    rename = store.os.rename
    calls = 0

    def second_fails(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(store.os, "rename", second_fails)
    with pytest.raises(UserError, match="Input/output error"):
        write_corpus(tmp_path / "corpus", INFO, {"train": []})
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert len(list(read_split(tmp_path / "corpus", "train"))) == 2


def test_an_earlier_corpus_is_replaced_whole(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", INFO, SPLITS)
    write_corpus(tmp_path / "corpus", INFO, {"train": [Example("new")]})
    assert sorted(p.name for p in (tmp_path / "corpus").iterdir()) == ["corpus.json", "train.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a prepared corpus"):
        write_corpus(tmp_path, INFO, SPLITS)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("a file")
    with pytest.raises(UserError, match="is a file"):
        write_corpus(tmp_path / "corpus", INFO, SPLITS)


def test_kept_only_if_complete_and_unchanged(tmp_path: Path) -> None:
    assert kept(tmp_path / "corpus", "sha256:1") is None
    written = write_corpus(tmp_path / "corpus", INFO, SPLITS)
    assert kept(tmp_path / "corpus", "sha256:1") == written
    assert kept(tmp_path / "corpus", "sha256:2") is None
    with (tmp_path / "corpus" / "test.jsonl").open("a") as file:
        file.write("{}\n")
    assert kept(tmp_path / "corpus", "sha256:1") is None


def test_faulty_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.json is missing; make one with `imitkd data"):
        read_info(tmp_path)
    (tmp_path / "corpus.json").write_text("[1]")
    with pytest.raises(UserError, match="is not a corpus description"):
        read_info(tmp_path)
