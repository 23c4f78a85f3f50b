"""Standard input as batches of lines: nothing lost, faults named by line."""

from __future__ import annotations

import io

import pytest

from imitkd.text_lines import encode_lines, read_lines
from seq2seq.errors import UserError
from tests.builders import tiny_vocabulary


def batches(content: bytes, size: int) -> list[tuple[int, list[str]]]:
    return list(read_lines(io.BytesIO(content), size))


def test_batches_carry_the_index_of_their_first_line() -> None:
    found = batches(b"a\nb\nc\nd\ne\n", 2)
    assert found == [(0, ["a", "b"]), (2, ["c", "d"]), (4, ["e"])]


def test_a_whole_number_of_batches_has_no_empty_one_behind() -> None:
    assert batches(b"a\nb\n", 2) == [(0, ["a", "b"])]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\nno end", ["a", "no end"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        ("ä\u2028ö\fü\n".encode(), ["ä\u2028ö\fü"]),
    ],
    ids=["nothing", "empty line", "no last end", "carriage returns", "other separators"],
)
def test_lines_end_with_a_line_feed_alone(content: bytes, texts: list[str]) -> None:
    assert [text for _, part in batches(content, 10) for text in part] == texts


def test_bytes_that_are_not_utf8_are_named_by_line() -> None:
    lines = read_lines(io.BytesIO(b"a\nb\nc\n\xe4\n"), 2)
    assert next(lines) == (0, ["a", "b"])
    with pytest.raises(UserError, match=r"^line 4 is not UTF-8 \(.*\); convert it first$"):
        next(lines)


def test_encoding_gives_encoder_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = tiny_vocabulary()
    texts = ["ab cd", ""]
    found = encode_lines(vocabulary, texts, 0, 20)
    assert found == [vocabulary.encode_source(text) for text in texts]
    assert capsys.readouterr().err == ""


def test_an_over_long_text_loses_its_end_with_a_line_that_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    vocabulary = tiny_vocabulary()
    whole = [vocabulary.encode_source("ab cd ef"), vocabulary.encode_source("ab")]
    longest = len(whole[0]) - 1
    assert len(whole[1]) <= longest
    found = encode_lines(vocabulary, ["ab cd ef", "ab"], 7, longest)
    assert found == [[*whole[0][: longest - 1], vocabulary.eos_id], whole[1]]
    assert capsys.readouterr().err == (
        f"imitkd: line 8 has {longest + 1} ids, more than the model's {longest}: its end was left "
        "out; split it\n"
    )


def test_a_text_of_just_the_limit_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = tiny_vocabulary()
    ids = vocabulary.encode_source("ab cd ef")
    assert encode_lines(vocabulary, ["ab cd ef"], 0, len(ids)) == [ids]
    assert capsys.readouterr().err == ""
