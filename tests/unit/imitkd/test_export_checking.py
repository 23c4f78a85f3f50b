"""What an export is let through for: equal output, ties, a loss that is known and small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from imitkd.engines.own import OwnEngine
from imitkd.export.checking import Check, EnginePeer, compare
from seq2seq.checkpoint import ModelDirectory, load_model_directory
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from seq2seq.modes import LengthLimit
from tests.builders import tiny_text

Edit = Callable[[list[list[int]]], list[list[int]]]
TEXTS = tiny_text(6, seed=5)
LIMIT = LengthLimit(ratio=1, offset=2, cap=12)
EXAMPLES = [Example(text, ("abc " + text,)) for text in TEXTS]


class EditedPeer(EnginePeer):
    """The source itself, with something done to what it writes, cuts or shows."""

    def __init__(
        self,
        directory: ModelDirectory,
        write: Edit = lambda x: x,
        encode: Edit = lambda x: x,
        suffix: str = "",
    ) -> None:
        super().__init__(OwnEngine(directory, LIMIT))
        self._write_edit, self._encode_edit, self._suffix = write, encode, suffix

    def write(self, sources: Sequence[list[int]]) -> list[list[int]]:
        return self._write_edit(super().write(sources))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode_edit(super().encode(texts))

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids) + self._suffix


@pytest.fixture
def directory(tiny_teacher: Path) -> ModelDirectory:
    return load_model_directory(tiny_teacher)


def check(
    directory: ModelDirectory,
    peer: EnginePeer,
    examples: Sequence[Example] = EXAMPLES,
    exact: bool = True,
    loss: float = 1.0,
) -> Check:
    return compare(directory, peer, examples, "here", exact=exact, max_bleu_loss=loss, limit=LIMIT)


def other_first_id(rows: list[list[int]]) -> list[list[int]]:
    (first, *rest), *others = rows
    return [[5 if first != 5 else 6, *rest], *others]


def test_the_source_passes_its_own_check(directory: ModelDirectory) -> None:
    found = check(directory, EditedPeer(directory))
    assert (found.sentences, found.differing, found.ties) == (6, 0, 0)
    assert found.bleu_loss == 0


def test_one_other_id_is_refused(directory: ModelDirectory) -> None:
    with pytest.raises(UserError, match=r"^nothing was written.* 1 of 6 sentences come out diff"):
        check(directory, EditedPeer(directory, write=other_first_id))


def test_a_target_that_ends_early_is_refused(directory: ModelDirectory) -> None:
    with pytest.raises(UserError, match="1 of 6 sentences"):
        check(directory, EditedPeer(directory, write=lambda rows: [rows[0][:-1], *rows[1:]]))


def test_two_tokens_as_good_as_equal_are_a_tie(directory: ModelDirectory) -> None:
    """A twin of every row's first id: same embedding, and a bias a hair's breadth lower."""
    model = directory.model
    source = directory.vocabulary.encode_source(TEXTS[0])
    first = OwnEngine(directory, LIMIT).write([source])[0][0]
    twin = 40 if first != 40 else 41
    with torch.no_grad():
        model.embedding.weight[twin] = model.embedding.weight[first]
        model.logit_bias[twin] = model.logit_bias[first] - 1e-4

    def twins(rows: list[list[int]]) -> list[list[int]]:
        return [[twin, *rows[0][1:]], *rows[1:]]

    assert OwnEngine(directory, LIMIT).write([source])[0][0] == first
    found = check(directory, EditedPeer(directory, write=twins))
    assert (found.differing, found.ties) == (1, 1)
    with torch.no_grad():
        model.logit_bias[twin] -= 0.01
    with pytest.raises(UserError, match="1 of 6 sentences"):
        check(directory, EditedPeer(directory, write=twins))


def test_a_tokenizer_that_cuts_otherwise_is_refused(directory: ModelDirectory) -> None:
    """Whatever the quantisation: it has nothing to do with weights."""
    peer = EditedPeer(directory, encode=lambda rows: [*rows[:-1], [7, *rows[-1]]])
    with pytest.raises(UserError, match=r"its tokenizer cuts '.+' into other ids"):
        check(directory, peer, exact=False)


def test_a_tokenizer_that_shows_otherwise_is_refused(directory: ModelDirectory) -> None:
    with pytest.raises(UserError, match="its tokenizer shows"):
        check(directory, EditedPeer(directory, suffix=" "))


def test_quantised_weights_may_cost_so_much_and_no_more(directory: ModelDirectory) -> None:
    good = OwnEngine(directory, LIMIT).write([directory.vocabulary.encode_source(t) for t in TEXTS])
    texts = [directory.vocabulary.decode(ids) for ids in good]
    assert all(texts)
    examples = [Example(s, (t,)) for s, t in zip(TEXTS, texts, strict=True)]
    peer = EditedPeer(directory, write=other_first_id)
    found = check(directory, peer, examples, exact=False, loss=100)
    assert found.differing == 1
    assert found.bleu_loss is not None and found.bleu_loss > 0.1
    with pytest.raises(UserError, match=r"the export loses \d+\.\d\d BLEU, more than 0.1"):
        check(directory, peer, examples, exact=False, loss=0.1)


def test_what_quantised_weights_cost_must_be_known(directory: ModelDirectory) -> None:
    bare = [Example(text) for text in TEXTS]
    peer = EditedPeer(directory)
    assert check(directory, peer, bare).bleu_loss is None
    with pytest.raises(UserError, match="have no references; give --corpus"):
        check(directory, peer, bare, exact=False)
