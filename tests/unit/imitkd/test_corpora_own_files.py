"""One's own files: every form that is read, every fault by name and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imitkd.cli.main import main
from imitkd.corpora import OwnFiles, TextFiles, list_corpora, prepare, read_info, read_split
from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.store import CorpusInfo
from seq2seq.corpus import Example
from seq2seq.errors import UserError


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _prepare_table(tmp_path: Path, name: str, content: str | bytes) -> CorpusInfo:
    path = _write(tmp_path / name, content)
    return prepare("mine", tmp_path / "out", own=OwnFiles(TextFiles(table=path)))


def test_aligned_files_with_two_references(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.en", "one\r\n two  words \n\nfour\u2028five\n")
    first = _write(tmp_path / "a.de", "\ufeffeins\nzwei Wörter\nleer\nvier fünf")
    second = _write(tmp_path / "a2.de.gz", gzip.compress(b"eins\nzwei\nleer\nvier\n"))
    own = OwnFiles(TextFiles(source=source, targets=(first, second)), source_language="en")
    info = prepare("mine", tmp_path / "out", own=own)
    assert list(read_split(tmp_path / "out", "train")) == [
        Example("one", ("eins",)),
        Example("two words", ("zwei Wörter", "zwei")),
        Example("four five", ("vier fünf", "vier")),
    ]
    assert info.source_language == "en"
    assert info.target_language == "und"
    assert info.origin == "own files: a.en, a.de, a2.de.gz"


def test_tsv_with_repetitions_and_empty_sides(tmp_path: Path) -> None:
    _prepare_table(tmp_path, "rows.tsv", "a\tb\n\na\tb\nc\t\n\td\ne\tf\n")
    pairs = list(read_split(tmp_path / "out", "train"))
    assert pairs == [Example("a", ("b",)), Example("e", ("f",))]


def test_jsonl_forms(tmp_path: Path) -> None:
    rows = """{"source": "a", "target": "b"}
{"source": "c", "references": ["d", "e", "d"]}
{"source": "f", "target": "g", "references": ["h", "g"], "id": 7}
"""
    _prepare_table(tmp_path, "rows.jsonl", rows)
    assert list(read_split(tmp_path / "out", "train")) == [
        Example("a", ("b",)),
        Example("c", ("d", "e")),
        Example("f", ("g", "h")),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.tsv", "one\ntwo\n"), ("a.jsonl", '{"source": "one"}\n{"source": "two"}\n')],
)
def test_source_only_tables(tmp_path: Path, name: str, content: str) -> None:
    info = _prepare_table(tmp_path, name, content)
    assert list(read_split(tmp_path / "out", "train")) == [Example("one"), Example("two")]
    assert info.notes == ("2 of 2 train rows are source-only.",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", r"a\.tsv' is empty"),
        ("a.tsv", b"\n  \n", r"a\.tsv' has no row with text"),
        ("a.tsv", b"ok\tja\ncaf\xe9\tx\n", r"line 2 is not UTF-8 \(byte 0xe9 at byte 4.*iconv"),
        ("a.tsv", b"a\tb\nc\n", r"line 2 has 1 tab-separated columns, the lines before it 2"),
        ("a.jsonl", b'{"source": "a"}\n{"source": \n', r"line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n', r"line 1 is not a corpus row; write"),
        ("a.jsonl", b'{"source": "a", "target": 3}\n', r"line 1 is not a corpus row"),
        ("a.jsonl", b'{"source": "a", "references": "b"}\n', r"line 1 is not a corpus row"),
        ("a.jsonl", b"[]\n", r"line 1 is not a corpus row"),
        ("a.csv", b"a,b\n", r"cannot tell the format of .*a\.csv'; name it \.tsv or \.jsonl"),
        ("a.tsv.gz", b"not gzip", r"a\.tsv\.gz' cannot be read"),
    ],
)
def test_faulty_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _prepare_table(tmp_path, name, content)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unequal_and_missing_files(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.en", "one\ntwo\n")
    short = _write(tmp_path / "a.de", "eins\n")
    with pytest.raises(UserError, match=r"a\.en' has 2 lines and '.*a\.de' has 1"):
        prepare("mine", tmp_path / "o", own=OwnFiles(TextFiles(source=source, targets=(short,))))
    absent = TextFiles(source=source, targets=(tmp_path / "b.de",))
    with pytest.raises(UserError, match=r"b\.de' does not exist"):
        prepare("mine", tmp_path / "o", own=OwnFiles(absent))
    with pytest.raises(UserError, match="is a directory"):
        prepare("mine", tmp_path / "o", own=OwnFiles(TextFiles(source=tmp_path)))
    with pytest.raises(UserError, match="needs its source file"):
        prepare("mine", tmp_path / "o", own=OwnFiles(TextFiles(targets=(short,))))
    with pytest.raises(UserError, match="aligned files were both given"):
        prepare("mine", tmp_path / "o", own=OwnFiles(TextFiles(table=short, source=source)))
    assert not (tmp_path / "o").exists()


def _numbered(tmp_path: Path, rows: int) -> TextFiles:
    letters = "abcdefghij"
    names = ["".join(letters[int(digit)] for digit in str(n)) for n in range(rows)]
    lines = "".join(f"word {name}\tWort {name}\n" for name in names)
    return TextFiles(table=_write(tmp_path / "rows.tsv", lines + "WORD b!\tWort anders\n"))


def test_hash_split_of_own_text(tmp_path: Path) -> None:
    own = OwnFiles(_numbered(tmp_path, 60), held_out={"validation": 10, "test": 15})
    info = prepare("mine", tmp_path / "out", own=own)
    assert (info.splits["validation"], info.splits["test"]) == (10, 15)
    assert 34 <= info.splits["train"] <= 36
    keys = [{leak_key(p.source) for p in read_split(tmp_path / "out", s)} for s in info.splits]
    assert len(set.union(*keys)) == sum(len(found) for found in keys)

    none = prepare("mine", tmp_path / "none", own=OwnFiles(own.train, held_out={"test": 0}))
    assert none.splits == {"train": 61}


@pytest.mark.parametrize(("size", "message"), [(60, "are not enough"), (-1, "--test is -1")])
def test_impossible_hash_splits(tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own = OwnFiles(_numbered(tmp_path, 60), held_out={"test": size})
        prepare("mine", tmp_path / "out", own=own)


def test_given_splits_are_left_as_they_are_and_overlap_is_said(tmp_path: Path) -> None:
    train = _numbered(tmp_path, 20)
    test = TextFiles(table=_write(tmp_path / "test.tsv", "Word, a\tWort a\nnew\tneu\n"))
    info = prepare("mine", tmp_path / "out", own=OwnFiles(train, given={"test": test}))
    assert info.splits == {"train": 21, "test": 2}
    assert info.notes[0].startswith("1 of 2 test sources also occur in train")
    with pytest.raises(UserError, match="--test 5 and a file for test were both given"):
        prepare("mine", tmp_path / "o", own=OwnFiles(train, {"test": test}, {"test": 5}))


def test_same_input_is_kept_and_other_input_replaces(tmp_path: Path) -> None:
    first = _prepare_table(tmp_path, "a.tsv", "a\tb\n")
    stamp = (tmp_path / "out" / "train.jsonl").stat().st_ino
    assert _prepare_table(tmp_path, "a.tsv", "a\tb\n") == first
    assert (tmp_path / "out" / "train.jsonl").stat().st_ino == stamp
    second = _prepare_table(tmp_path, "a.tsv", "a\tc\n")
    assert second.fingerprint != first.fingerprint
    assert list(read_split(tmp_path / "out", "train")) == [Example("a", ("c",))]


def test_names(tmp_path: Path) -> None:
    own = OwnFiles(TextFiles(table=_write(tmp_path / "a.tsv", "a\tb\n")))
    with pytest.raises(UserError, match="unknown corpus 'multi40k'; known are ui-strings-en-de,"):
        prepare("multi40k", tmp_path / "out")
    with pytest.raises(UserError, match=r"unknown corpus 'ui-strings-en-\.\./x'"):
        prepare("ui-strings-en-../x", tmp_path / "out")
    with pytest.raises(UserError, match="is the name of a known corpus"):
        prepare("ui-strings-en-de", tmp_path / "out", own=own)
    with pytest.raises(UserError, match="cannot name a corpus"):
        prepare("../up", tmp_path / "out", own=own)
    with pytest.raises(UserError, match="--from is for named corpora"):
        prepare("mine", tmp_path / "out", own=own, source=tmp_path)
    assert {"ui-strings-en-de", "multi30k-de-en"} <= {entry.name for entry in list_corpora()}


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(_write(tmp_path / "a.de", "eins\nzwei\ndrei\n"))
    target = str(_write(tmp_path / "a.en", "one\ntwo\nthree\n"))
    out = str(tmp_path / "out")
    arguments = ["data", "prepare", "mine", "--source-file", source, "--target-file", target]
    languages = ["--source-language", "de", "--target-language", "en", "--test", "1"]
    assert _run(*arguments, *languages, "--out", out) == 0
    assert "mine: 2 train, 1 test pairs in" in capsys.readouterr().out
    assert read_info(tmp_path / "out").target_language == "en"


def test_command_line_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert _run("data", "prepare", "nothing", "--out", out) == 2
    assert _run("data", "prepare", "multi30k-de-en", "--test", "5", "--out", out) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("imitkd: unknown corpus 'nothing'")
    assert "a known corpus has its splits already" in errors[1]
    assert not (tmp_path / "out").exists()


def test_list_names_every_corpus() -> None:
    from imitkd.cli.data import app

    printed = CliRunner().invoke(app, ["list"]).output
    for entry in list_corpora():
        assert entry.name in printed
