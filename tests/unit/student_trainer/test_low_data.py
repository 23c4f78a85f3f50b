"""A part of a corpus: drawn from all of it, in its order, the same for all that are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2seq.errors import UserError
from student_trainer.config import RunConfig, make_config
from student_trainer.low_data import drawn, some_of
from student_trainer.targets import training_examples


@pytest.mark.parametrize(("total", "count"), [(1, 1), (7, 1), (100, 99), (1000, 40)])
def test_so_many_rows_are_drawn_and_always_the_same(total: int, count: int) -> None:
    found = drawn(total, count)
    assert len(found) == total and found.sum() == count
    assert (found == drawn(total, count)).all()


@pytest.mark.parametrize("count", [5, 6, 1000])
def test_where_there_are_no_more_all_are_drawn(count: int) -> None:
    assert drawn(5, count).tolist() == [True] * 5
    assert drawn(0, count).tolist() == []


def test_rows_come_from_everywhere() -> None:
    """Twenty stretches of a corpus; four standard deviations of a binomial share are 0.011."""
    shares = drawn(100_000, 4_000).reshape(20, -1).mean(1)
    assert np.abs(shares - 0.04).max() < 0.012
    gaps = np.diff(np.flatnonzero(drawn(100_000, 4_000)))
    # Geometric, not at regular steps.
    assert gaps.std() == pytest.approx(25, rel=0.1)


def test_a_smaller_part_lies_within_a_larger_one() -> None:
    assert (drawn(1000, 40) <= drawn(1000, 50)).all()


def test_rows_are_gone_through_and_not_held() -> None:
    alive = 0

    class Row:
        def __init__(self, number: int) -> None:
            nonlocal alive
            alive += 1
            self.number = number

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def read() -> Iterator[Row]:
        for number in range(500):
            assert alive < 4
            yield Row(number)

    numbers = [row.number for row in some_of(read, 100)]
    assert numbers == np.flatnonzero(drawn(500, 100)).tolist()
    assert [row.number for row in some_of(read, None)] == list(range(500))


# --------------------------------------------------------------------------- of a corpus, by method

ROWS = [(f"source {i // 2}" if i < 20 else f"source {i}", f"reference {i}") for i in range(60)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [{"source": source, "references": [text]} for source, text in ROWS]
    return written(tmp_path / "corpus", lines)


def written(directory: Path, records: list[dict[str, Any]]) -> Path:
    directory.mkdir()
    text = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "train.jsonl").write_text(text)
    return directory


def distilled(directory: Path, rows: list[int]) -> Path:
    """What a teacher wrote for some rows of the corpus."""
    return written(
        directory,
        [
            {
                "source": ROWS[i][0],
                "references": [ROWS[i][1]],
                "candidates": [{"text": f"teacher's {i}"}],
            }
            for i in rows
        ],
    )


@pytest.fixture
def config_of(plain_config: dict[str, Any], corpus: Path) -> Callable[..., RunConfig]:
    def make(method: str, **of_corpus: Any) -> RunConfig:
        extra = {"initialise": {"from": "finished"}, "teacher": {"address": "x:1"}}
        paths = {"path": str(corpus), "sentences": 15} | of_corpus
        return make_config(plain_config | extra | {"method": method, "corpus": paths})

    return make


CHOSEN = np.flatnonzero(drawn(60, 15)).tolist()


@pytest.mark.parametrize("method", ["vanilla", "imitkd"])
def test_references_of_the_rows_that_are_drawn(config_of: Any, method: str) -> None:
    found = training_examples(config_of(method))
    assert [(e.source, e.references[0]) for e in found] == [ROWS[i] for i in CHOSEN]


LACKING = [i for i in range(60) if i not in (CHOSEN[3], CHOSEN[9], 59)]


@pytest.mark.parametrize("rows", [list(range(60)), LACKING, CHOSEN, CHOSEN[1:]])
@pytest.mark.parametrize("method", ["seqkd", "seqinter", "imitkd-star"])
def test_teacher_written_text_is_of_the_same_sources(
    config_of: Any, tmp_path: Path, rows: list[int], method: str
) -> None:
    where = distilled(tmp_path / "distilled", rows)
    found = [e.references[0] for e in training_examples(config_of(method, distilled=str(where)))]
    assert found == [f"teacher's {i}" for i in CHOSEN if i in rows]


def test_a_corpus_with_teacher_written_text_has_one_part_for_all(
    config_of: Any, tmp_path: Path
) -> None:
    where = distilled(tmp_path / "distilled", LACKING)
    sources = [
        [e.source for e in training_examples(config_of(method, path=str(where)))]
        for method in ("vanilla", "seqkd")
    ]
    assert sources[0] == sources[1] and len(sources[0]) == 15


@pytest.mark.parametrize("rows", [[3, 40, 2], list(range(59, -1, -1))])
def test_text_that_was_written_for_another_corpus(
    config_of: Any, tmp_path: Path, corpus: Path, rows: list[int]
) -> None:
    where = distilled(tmp_path / "distilled", rows)
    fault = rf"was not written for {corpus}, .*`imitkd data distil {corpus}`, or leave"
    with pytest.raises(UserError, match=fault):
        list(training_examples(config_of("seqkd", distilled=str(where))))
    found = training_examples(config_of("seqkd", distilled=str(where), sentences=None))
    assert len(list(found)) == len(rows)
