"""Parts of a distillation, its identity, and what becomes of the teacher's hypotheses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imitkd.distilling.parts import Parts
from imitkd.distilling.recipe import make_recipe, require_same
from imitkd.distilling.writing import EMPTY, TOO_LONG, UNFINISHED, TeacherWriter
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from teacher_service.codec import Beam, GeneratedHypothesis, Greedy, LengthLimit, ModelInfo
from tests.builders import tiny_text, tiny_vocabulary

RECIPE = {"recipe": 1, "teacher": {"revision": "sha256:a", "fingerprint": "f"}, "splits": ["train"]}


def recipe(corpus: Path, **change: Any) -> dict[str, Any]:
    """The recipe of a corpus; ``change`` of its arguments."""
    info = ModelInfo(**dict.fromkeys(ModelInfo.__annotations__, 0) | {"revision": "sha256:a"})  # type: ignore[arg-type]
    given = {"splits": ["train"], "sentences": None, "teacher": info, "mode": Beam(5, 5)}
    return make_recipe(corpus, **(given | {"limit": LengthLimit()} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": Beam(4, 4)}, "decoding mode=beam size=5 .*and mode=beam size=4"),
        ({"mode": Greedy()}, "and mode=greedy is asked for"),
        ({"splits": ["train", "validation"]}, "splits train, and train,validation is asked for"),
        ({"sentences": 7}, "sentences None, and drawn=7"),
        ({"limit": LengthLimit(cap=9)}, "limit .*cap=9"),
    ],
)
def test_another_recipe_is_refused_naming_what_differs(tmp_path, change, message):
    (tmp_path / "train.jsonl").write_text("{}\n")
    begun = recipe(tmp_path)
    require_same(tmp_path, json.loads(json.dumps(begun)), recipe(tmp_path))
    with pytest.raises(UserError, match=message):
        require_same(tmp_path, begun, recipe(tmp_path, **change))


def test_another_text_and_another_teacher_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    begun = recipe(tmp_path)
    (tmp_path / "train.jsonl").write_text("{ }\n")
    with pytest.raises(UserError, match="another text than the corpus holds now"):
        require_same(tmp_path, begun, recipe(tmp_path))
    other = begun | {"teacher": {"revision": "sha256:b", "fingerprint": 0}}
    with pytest.raises(UserError, match="teacher sha256:b, and sha256:a answers"):
        require_same(tmp_path, other, begun)


def test_parts_read_back_and_keep_their_size(tmp_path):
    with Parts(tmp_path / "p", RECIPE, 2) as parts:
        assert not parts.has("train", 0)
        parts.write("train", 0, [{"a": "ü \u2028"}, {"b": 1}])
        assert list(parts.read("train", 0, 2)) == [{"a": "ü \u2028"}, {"b": 1}]
    with Parts(tmp_path / "p", RECIPE, 50) as parts:
        assert parts.has("train", 0) and list(parts.begins(5)) == [0, 2, 4]
        parts.remove()
    assert not (tmp_path / "p").exists()


def test_a_part_that_was_cut_is_told(tmp_path):
    with Parts(tmp_path / "p", RECIPE, 2) as parts:
        parts.write("train", 0, [{"a": 1}, {"b": 1}])
        file = next((tmp_path / "p").glob("train-*"))
        file.write_text('{"a": 1}\n')
        with pytest.raises(UserError, match=r"has 1 lines, expected 2; delete that file"):
            list(parts.read("train", 0, 2))


def test_one_process_at_a_time_works_on_parts(tmp_path):
    first = Parts(tmp_path / "p", RECIPE, 2)
    with pytest.raises(UserError, match="another process writes"):
        Parts(tmp_path / "p", RECIPE, 2)
    first.close()
    Parts(tmp_path / "p", RECIPE, 2).close()


def test_parts_of_something_else_are_refused_and_stay(tmp_path):
    Parts(tmp_path / "p", RECIPE, 2).close()
    with pytest.raises(UserError, match="teacher sha256:a, and sha256:b answers"):
        Parts(tmp_path / "p", RECIPE | {"teacher": {"revision": "sha256:b"}}, 2)
    Parts(tmp_path / "p", RECIPE, 2).close()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(UserError, match="in the way"):
        Parts(tmp_path / "mine", RECIPE, 2)
    assert (tmp_path / "mine" / "notes.txt").exists()


class Told:
    """A client that answers as told and remembers what it was asked."""

    def __init__(self, answers: Sequence[Sequence[GeneratedHypothesis]]) -> None:
        self.answers, self.asked = answers, ({}, [])

    def generate(self, sources: Any, mode: Any, *, limit: Any, keys: Any) -> Any:
        self.asked = (dict(zip(keys, sources, strict=True)), [len(s) for s in sources])
        return [self.answers[key - 100] for key in keys]


def test_hypotheses_become_records_in_the_order_of_the_rows():
    vocabulary, words = tiny_vocabulary(), [t for t in tiny_text() if len(t.split()) > 2]
    ids = [vocabulary.encode_target(w) for w in words[:3]]

    def said(place: int, log_prob: float, finished: bool = True) -> GeneratedHypothesis:
        return GeneratedHypothesis(ids[place], log_prob, finished)

    client = Told(
        [
            [said(0, -1.0), said(0, -2.0), said(1, -3.0)],
            [said(1, -1.0, finished=False)],
            [],
            [GeneratedHypothesis([vocabulary.eos_id], -0.1, True)],
            [said(2, -0.123456789), said(1, -0.2, finished=False)],
        ]
    )
    examples = [Example(t, ("theirs",)) for t in ("ab", words[0], words[1] * 9, "cd", words[2])]
    longest = len(vocabulary.encode_source(words[0])) + 9
    writer = TeacherWriter(client, vocabulary, Beam(3, 3), LengthLimit(), longest)  # type: ignore[arg-type]
    records = writer.write(examples, 100)
    assert records[0] == {
        "source": "ab",
        "references": ["theirs"],
        "candidates": [{"text": words[0], "score": -1.0}, {"text": words[1], "score": -3.0}],
    }
    assert records[1:4] == [{"left_out": UNFINISHED}, {"left_out": TOO_LONG}, {"left_out": EMPTY}]
    assert records[4]["candidates"] == [{"text": words[2], "score": -0.123457}]
    sources, lengths = client.asked
    assert sorted(sources) == [100, 101, 103, 104]
    assert sources[104] == vocabulary.encode_source(words[2])
    assert lengths == sorted(lengths, reverse=True)
