"""Vocabulary: faults first, then round trips, special ids, fingerprint and segmentations."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.errors import UserError
from seq2seq.vocabulary import (
    EOS_ID,
    PAD_ID,
    START_ID,
    UNK_ID,
    SentencePieceVocabulary,
    load_vocabulary,
)
from tests.builders import tiny_text, tiny_vocabulary


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_vocabulary().save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_broken_model_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="not a SentencePiece model") as caught:
        SentencePieceVocabulary(content)
    one_line(caught)


def test_a_truncated_model_file_is_refused(saved: Path) -> None:
    model = saved / "sentencepiece.model"
    model.write_bytes(model.read_bytes()[:-7])
    with pytest.raises(UserError) as caught:
        load_vocabulary(saved)
    one_line(caught)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "nowhere")) as caught:
        load_vocabulary(tmp_path / "nowhere")
    one_line(caught)


def trained_elsewhere(**ids: int) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_text()), model_writer=out, vocab_size=48, minloglevel=2, **ids
    )
    return out.getvalue()


def test_a_model_without_an_end_symbol_is_refused() -> None:
    with pytest.raises(UserError, match="has no end symbol"):
        SentencePieceVocabulary(trained_elsewhere(eos_id=-1))


@pytest.mark.parametrize(
    "ids", [{"eos_id": 0, "unk_id": 1, "bos_id": -1}, {"eos_id": 2, "unk_id": 0, "bos_id": 1}]
)
def test_a_model_made_elsewhere_gets_pad_and_start_behind_its_pieces(
    ids: dict[str, int], tmp_path: Path
) -> None:
    content = trained_elsewhere(**ids)
    vocabulary, theirs = SentencePieceVocabulary(content), sentencepiece.SentencePieceProcessor()
    theirs.load_from_serialized_proto(content)
    special = vocabulary.special
    assert (special.eos, special.unk) == (ids["eos_id"], ids["unk_id"])
    assert (special.pad, special.start, vocabulary.size) == (48, 49, 50)
    pieces = [vocabulary.piece(i) for i in range(50)]
    assert pieces == [*(theirs.id_to_piece(i) for i in range(48)), "<pad>", "<start>"]
    text = tiny_text(1, seed=9)[0]
    written = [*vocabulary.encode_target(text), 48, 49]
    assert written[:-3] == theirs.encode(text) and vocabulary.decode(written) == text
    vocabulary.save(tmp_path)
    again = load_vocabulary(tmp_path)
    assert again.fingerprint == vocabulary.fingerprint and again.special == special
    others = {v.fingerprint for v in (tiny_vocabulary(), vocabulary)}
    assert len(others) == 2


@pytest.mark.parametrize("meta", ["{", "[]", "\udcff"])
def test_a_broken_meta_file_is_refused(saved: Path, meta: str) -> None:
    (saved / "vocabulary.json").write_text(meta, errors="surrogateescape")
    with pytest.raises(UserError, match=r"vocabulary\.json is not valid JSON"):
        load_vocabulary(saved)


def test_a_swapped_model_file_is_noticed(saved: Path, tmp_path: Path) -> None:
    tiny_vocabulary(40).save(tmp_path / "other")
    (saved / "sentencepiece.model").write_bytes(
        (tmp_path / "other" / "sentencepiece.model").read_bytes()
    )
    with pytest.raises(UserError, match="does not match the fingerprint") as caught:
        load_vocabulary(saved)
    one_line(caught)


@pytest.mark.parametrize("lines", [[], [""], ["hello world"] * 3])
def test_too_little_text_names_size_and_remedy(lines: list[str]) -> None:
    with pytest.raises(UserError, match=r"1000 pieces.*lower vocabulary\.size") as caught:
        SentencePieceVocabulary.train(lines, 1000)
    one_line(caught)


def test_special_ids_are_fixed_and_distinct() -> None:
    vocabulary = tiny_vocabulary()
    ids = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.start_id)
    assert ids == (PAD_ID, EOS_ID, UNK_ID, START_ID) == (0, 1, 2, 3)
    assert vocabulary.size == 48


@pytest.mark.parametrize("text", tiny_text(20, seed=9))
def test_round_trip(text: str) -> None:
    vocabulary = tiny_vocabulary()
    ids = vocabulary.encode(text)
    assert ids and all(START_ID < i < vocabulary.size for i in ids)
    assert vocabulary.decode(ids) == text


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abcdefgh zÄß€漢\t\u200b\u0301▁<>/", max_size=30))
def test_any_text_becomes_ids_in_range_and_no_special_one(text: str) -> None:
    vocabulary = tiny_vocabulary()
    ids = vocabulary.encode(text)
    assert all(i == UNK_ID or START_ID < i < vocabulary.size for i in ids)
    assert isinstance(vocabulary.decode(ids), str)


def test_encoded_sentences_end_with_eos_once() -> None:
    vocabulary = tiny_vocabulary()
    text = tiny_text()[0]
    ids = vocabulary.encode(text)
    assert vocabulary.encode_source(text) == [*ids, EOS_ID]
    assert vocabulary.encode_target(text) == [*ids, EOS_ID]
    assert vocabulary.encode_source("") == [EOS_ID]
    assert vocabulary.encode_many([text, ""]) == [ids, []]


def test_decode_drops_pad_eos_and_start_but_shows_unknown() -> None:
    vocabulary = tiny_vocabulary()
    ids = vocabulary.encode("abc")
    assert vocabulary.decode([START_ID, *ids, EOS_ID, PAD_ID, PAD_ID]) == vocabulary.decode(ids)
    assert "⁇" in vocabulary.decode([UNK_ID])
    assert vocabulary.decode([]) == ""


def test_save_and_load_keep_everything(saved: Path) -> None:
    before, after = tiny_vocabulary(), load_vocabulary(saved)
    assert after.fingerprint == before.fingerprint and after.size == before.size
    assert [after.piece(i) for i in range(after.size)] == [before.piece(i) for i in range(48)]
    text = tiny_text()[3]
    assert after.encode(text) == before.encode(text)
    meta = json.loads((saved / "vocabulary.json").read_text())
    assert meta["special_ids"] == {"pad": 0, "eos": 1, "unk": 2, "start": 3}
    assert meta["fingerprint"] == before.fingerprint


def test_load_without_meta_file(saved: Path) -> None:
    (saved / "vocabulary.json").unlink()
    assert load_vocabulary(saved).fingerprint == tiny_vocabulary().fingerprint


def test_training_is_a_function_of_the_text() -> None:
    again = SentencePieceVocabulary.train(tiny_text(), 48)
    assert again.fingerprint == tiny_vocabulary().fingerprint


def test_the_order_and_the_length_of_lines_do_not_matter() -> None:
    """Nor is a long line left out, which the trainer would do on its own."""
    lines = tiny_text()
    one = "  ".join(reversed(lines))
    assert len(one) > 4192
    found, expected = (SentencePieceVocabulary.train(text, 48) for text in ([one], lines))
    assert {found.piece(i) for i in range(48)} == {expected.piece(i) for i in range(48)}


def test_fingerprint_changes_with_the_pieces() -> None:
    other_text = [line.replace("a", "z") for line in tiny_text()]
    prints = {
        tiny_vocabulary(48).fingerprint,
        tiny_vocabulary(40).fingerprint,
        SentencePieceVocabulary.train(other_text, 48).fingerprint,
    }
    assert len(prints) == 3
    assert all(p.startswith("sha256:") and len(p) == 7 + 64 for p in prints)


def test_segmentations_are_ranked_and_spell_the_same_text() -> None:
    vocabulary = tiny_vocabulary()
    text = tiny_text()[1]
    found = vocabulary.segmentations(text, 6)
    scores = [score for _, score in found]
    assert len(found) == 6 and len({tuple(ids) for ids, _ in found}) == 6
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    assert {vocabulary.decode(ids) for ids, _ in found} == {text}
    assert found[0][0] == vocabulary.encode(text)
    assert len(vocabulary.segmentations(text, 1)) == 1


def test_user_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(UserError("batch size 0 must be positive")))
    assert isinstance(error, UserError) and str(error) == "batch size 0 must be positive"
