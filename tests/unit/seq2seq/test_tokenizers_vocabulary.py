"""Vocabularies over ``tokenizer.json`` and over a pair of SentencePiece models: faults first."""

from __future__ import annotations

import io
import json
import sys

import pytest
import sentencepiece

from seq2seq.errors import UserError
from seq2seq.sentencepiece_pair import SentencePiecePair
from seq2seq.tokenizers_vocabulary import TokenizersVocabulary, unknown_id
from seq2seq.vocabulary import SpecialIds, Vocabulary, load_vocabulary
from tests.builders import tiny_text, tiny_vocabulary

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = SpecialIds(pad=0, eos=1, unk=2, start=0)
PIECES = ["<pad>", "</s>", "<unk>", "en", "de", "abc", "de2", "fg"]


def word_level(template: str = "$A </s>", pieces: list[str] = PIECES) -> tokenizers.Tokenizer:
    table = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(PIECES[:5])
    if template:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, special_tokens=[(p, table[p]) for p in PIECES[:5]]
        )
    return tokenizer


def vocabulary(template: str = "$A </s>", size: int = 10) -> TokenizersVocabulary:
    return TokenizersVocabulary(word_level(template).to_str(), size, SPECIAL)


@pytest.fixture(scope="module")
def pair() -> SentencePiecePair:
    """Two SentencePiece models whose pieces share one table, sources' first."""
    models, pieces = [], ["</s>", "<unk>", ">>deu<<"]
    for lines in (tiny_text(seed=0), [line.replace("a", "z") for line in tiny_text(seed=1)]):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=out, vocab_size=40, minloglevel=2
        )
        models.append(out.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=models[-1])
        pieces += [processor.id_to_piece(i) for i in range(3, len(processor))]
    pieces = [*dict.fromkeys(pieces), "<pad>"]
    table = {piece: i for i, piece in enumerate(pieces)}
    pad = table["<pad>"]
    return SentencePiecePair(*models, table, len(table), SpecialIds(pad, 0, 1, pad))


# ------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("content", ["", "{", "{}", "null"])
def test_what_is_no_tokenizer_is_one_line(content):
    with pytest.raises(UserError, match=r"not a tokenizer\.json") as caught:
        TokenizersVocabulary(content, 10, SPECIAL)
    assert "\n" not in str(caught.value)


def test_more_pieces_than_ids_are_refused():
    with pytest.raises(UserError, match="ids up to 7, more than the model's 7"):
        vocabulary(size=7)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'imitkd\[huggingface\]'"):
        TokenizersVocabulary("{}", 10, SPECIAL)


@pytest.mark.parametrize(
    "meta", [{"size": 10}, {"size": "x", "special_ids": {}}, {"special_ids": 3}]
)
def test_a_meta_file_without_its_facts_is_refused(tmp_path, meta):
    vocabulary().save(tmp_path)
    (tmp_path / "vocabulary.json").write_text(json.dumps({"kind": "tokenizers"} | meta))
    with pytest.raises(UserError, match="has no size and special ids"):
        load_vocabulary(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"kind": "runes"}')
    with pytest.raises(UserError, match="unknown kind 'runes'"):
        load_vocabulary(tmp_path)


def test_another_tokenizer_than_the_fingerprint_says_is_refused(tmp_path):
    vocabulary().save(tmp_path)
    changed = word_level(pieces=[*PIECES[:5], "fg", "abc", "de2"])
    (tmp_path / "tokenizer.json").write_text(changed.to_str())
    with pytest.raises(UserError, match="does not match the fingerprint"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json"])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff"])
def test_a_damaged_pair_is_one_line(pair, tmp_path, name, content):
    pair.save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        load_vocabulary(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_sentencepiece_has_several_segmentations():
    with pytest.raises(UserError, match=r"set corpus\.source_candidates to 1"):
        vocabulary().segmentations("abc", 4)


# ------------------------------------------------------------------------------------ one for both


def test_text_to_ids_and_back():
    found = vocabulary()
    assert found.encode_many(["abc fg", "", "what"]) == [[5, 7], [], [2]]
    assert found.encode_source("abc fg") == found.encode_target("abc fg") == [5, 7, 1]
    assert found.encode_source("") == [1]
    assert found.decode([5, 7, 1, 0]) == "abc fg"
    assert [found.piece(i) for i in (1, 5, 8, 9)] == ["</s>", "abc", "", ""]
    assert (found.size, found.pad_id, found.eos_id, found.unk_id, found.start_id) == (
        10,
        0,
        1,
        2,
        0,
    )


@pytest.mark.parametrize(
    ("template", "source", "tail"),
    [
        ("en $A </s>", [3, 5, 7, 1], 0),  # NLLB, mBART-50
        ("$A </s> en", [5, 7, 1, 3], 1),  # mBART
        ("", [5, 7, 1], 0),
        ("$A en", [5, 7, 3], 0),
    ],
)
def test_sources_are_exactly_what_the_tokenizer_makes_of_them(template, source, tail):
    found = vocabulary(template)
    assert found.encode_source("abc fg") == source
    if template:
        assert word_level(template).encode("abc fg").ids == source
    assert found.source_tail == tail
    assert found.encode_target("abc fg") == [5, 7, 1]


def test_a_long_source_loses_words_and_nothing_else():
    found = vocabulary("en $A </s>")
    ids = found.encode("abc fg abc fg")
    assert found.as_source(ids, 4) == [3, 5, 7, 1]
    assert found.as_source(ids, 2) == [3, 1]
    assert found.as_target(ids, 3) == [5, 7, 1]


def test_what_the_file_says_of_cutting_and_padding_is_ignored():
    tokenizer = word_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    found = TokenizersVocabulary(tokenizer.to_str(), 10, SPECIAL)
    assert found.encode_many(["abc", "abc fg abc"]) == [[5], [5, 7, 5]]


def test_saved_and_read_again_it_is_the_same(tmp_path):
    before = vocabulary("en $A </s>")
    before.save(tmp_path / "tokenizer")
    after = load_vocabulary(tmp_path / "tokenizer")
    assert isinstance(after, TokenizersVocabulary)
    assert after.fingerprint == before.fingerprint and after.special == SPECIAL
    assert after.encode_source("abc de2") == before.encode_source("abc de2")


def test_the_fingerprint_is_of_pieces_ids_size_and_special_ids():
    content = word_level().to_str()
    swapped = word_level(pieces=[*PIECES[:5], "fg", "abc", "de2"]).to_str()
    prints = [
        TokenizersVocabulary(content, 10, SPECIAL).fingerprint,
        TokenizersVocabulary(content, 11, SPECIAL).fingerprint,
        TokenizersVocabulary(swapped, 10, SPECIAL).fingerprint,
        TokenizersVocabulary(content, 10, SpecialIds(0, 1, 2, 1)).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert TokenizersVocabulary(word_level("en $A").to_str(), 10, SPECIAL).fingerprint == prints[0]


def test_the_unknown_id_by_kind_of_tokenizer():
    assert unknown_id(word_level().to_str()) == 2
    unigram = tokenizers.models.Unigram([("a", -1.0), ("<unk>", -9.0)], unk_id=1)
    assert unknown_id(tokenizers.Tokenizer(unigram).to_str()) == 1
    bytes_alone = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    assert unknown_id(bytes_alone.to_str()) is None


# --------------------------------------------------------------------------------- a pair of models


def test_sources_and_targets_are_cut_each_by_its_own_model(pair):
    text = tiny_text()[3].replace("z", "a")
    source, target = pair.encode_source(text), pair.encode_target(text.replace("a", "z"))
    assert source[-1] == target[-1] == pair.eos_id
    assert "".join(map(pair.piece, source[:-1])).replace("▁", " ").strip() == text
    assert pair.decode(target) == text.replace("a", "z")
    assert pair.encode_many_targets([text]) != pair.encode_many([text])


def test_a_language_code_is_one_piece_of_a_source(pair):
    ids = pair.encode(">>deu<< abc")
    assert pair.piece(ids[0]) == ">>deu<<"
    assert ids[1:] == pair.encode("abc")
    assert pair.encode(">>xxx<< abc")[0] == pair.unk_id


def test_a_pair_saved_and_read_again_is_the_same(pair, tmp_path):
    pair.save(tmp_path)
    after: Vocabulary = load_vocabulary(tmp_path)
    assert after.fingerprint == pair.fingerprint and after.special == pair.special
    for text in tiny_text()[:5]:
        assert after.encode_source(text) == pair.encode_source(text)
        assert after.encode_target(text) == pair.encode_target(text)


def test_a_pair_encodes_as_transformers_does(pair, tmp_path):
    transformers = pytest.importorskip("transformers")
    pair.save(tmp_path)
    with pytest.warns(UserWarning, match="sacremoses"):
        peer = transformers.MarianTokenizer.from_pretrained(tmp_path)
    for text in tiny_text()[:5]:
        assert peer(text).input_ids == pair.encode_source(text)
        assert peer(text_target=text).input_ids == pair.encode_target(text)


def test_the_kinds_have_different_fingerprints(pair):
    assert len({pair.fingerprint, vocabulary().fingerprint, tiny_vocabulary().fingerprint}) == 3
