"""A trimmed teacher cuts the task's text as before and computes what it computed, renormalised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imitkd.importing.marian import import_marian
from imitkd.importing.marian_files import MarianFiles
from imitkd.trimming import texts_of, trim, trim_directory
from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.checkpoint import (
    ModelDirectory,
    content_revision,
    load_model_directory,
    save_model_directory,
)
from seq2seq.errors import UserError
from seq2seq.model import build_model
from seq2seq.vocabulary import SentencePieceVocabulary
from tests import marian
from tests.builders import STACKED, tiny_model

LINES = [
    "Turn the light on",
    "Turn the light off",
    "Schalte das Licht ein",
    "Schalte das Licht aus",
    "Unbekannte Wege führen weit",
    "Many other words occur elsewhere",
    "Wherever many unknown words occur",
    "Andere Worte führen anderswohin",
]
TASK = LINES[:4]


def whole(folder: Path) -> ModelDirectory:
    vocabulary = SentencePieceVocabulary.train(LINES * 20, 56)
    torch.manual_seed(1)
    sizes = {"d_model": 16, "heads": 2, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1}
    special = {"pad_id": vocabulary.pad_id, "eos_id": vocabulary.eos_id}
    model = build_model(
        {"kind": "transformer", "vocab_size": vocabulary.size, "start_id": vocabulary.start_id}
        | {"max_source_length": 32, "max_target_length": 32, "dropout": 0.0}
        | sizes
        | special
    )
    with torch.no_grad():
        model.logit_bias.normal_()
    save_model_directory(folder, model, vocabulary, name="whole", card="", dtype=torch.float32)
    return load_model_directory(folder)


def logits(directory: ModelDirectory, source: str, target: str) -> torch.Tensor:
    vocabulary, model = directory.vocabulary, directory.model
    sources = pad_sequences([vocabulary.encode_source(source)], vocabulary.pad_id)
    ids, _ = pad_sequences([vocabulary.encode_target(target)], vocabulary.pad_id)
    with torch.inference_mode():
        return model(*sources, decoder_inputs(ids, vocabulary.start_id))[0]


def test_the_tasks_text_is_cut_as_before(tmp_path: Path) -> None:
    before = whole(tmp_path / "whole")
    after = trim(before, TASK)
    assert after.vocabulary.size < before.vocabulary.size
    for text in TASK:
        ids = after.vocabulary.encode_target(text)
        assert [after.kept[i] for i in ids] == before.vocabulary.encode_target(text)
        assert after.vocabulary.decode(ids) == text


def test_other_text_loses_no_known_character(tmp_path: Path) -> None:
    before = whole(tmp_path / "whole")
    after = trim(before, TASK)
    for text in LINES:
        ids = after.vocabulary.encode(text)
        assert after.vocabulary.unk_id not in ids
        assert after.vocabulary.decode(ids) == text


def test_distributions_are_those_it_had_renormalised(tmp_path: Path) -> None:
    before = whole(tmp_path / "whole")
    _, after = trim_directory(tmp_path / "whole", tmp_path / "small", TASK)
    small = load_model_directory(tmp_path / "small")
    was = logits(before, TASK[0], TASK[2])[:, after.kept]
    now = logits(small, TASK[0], TASK[2])
    # Weights on disk are fp16.
    torch.testing.assert_close(now.log_softmax(-1), was.log_softmax(-1), atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", ["stacked-sru", "stacked-gru"])
def test_every_table_is_cut(shape: str, tmp_path: Path) -> None:
    """A stacked model may read sources with a table of their own."""
    vocabulary = SentencePieceVocabulary.train(LINES * 20, 56)
    model = tiny_model(2, vocab_size=vocabulary.size, **STACKED[shape])
    save_model_directory(tmp_path, model, vocabulary, name="m", card="", dtype=torch.float32)
    before = load_model_directory(tmp_path)
    after = trim(before, TASK)
    small = replace(before, model=after.model, vocabulary=after.vocabulary)
    was, now = (logits(directory, TASK[0], TASK[2]) for directory in (before, small))
    assert now.shape[1] < was.shape[1]
    torch.testing.assert_close(now, was[:, after.kept])


def test_rare_pieces_go_where_asked(tmp_path: Path) -> None:
    before = whole(tmp_path / "whole")
    texts = [*TASK, LINES[4]]
    assert trim(before, texts, 2).vocabulary.size < trim(before, texts).vocabulary.size


def test_pad_and_start_behind_the_pieces_stay_there(tmp_path: Path) -> None:
    """A model made elsewhere has its pad and start ids behind its own."""
    options = marian.TINY | marian.SSRU
    model = marian.write_npz(tmp_path / "model.npz", marian.random_items(options, 48), options)
    (tmp_path / "vocab.spm").write_bytes(marian.sentencepiece_model(48))
    files = MarianFiles(model, tmp_path / "vocab.spm")
    import_marian(files, tmp_path / "imported", name="m", max_length=32)
    before = load_model_directory(tmp_path / "imported")
    after = trim(before, ["nothing of it"])
    old, new = before.vocabulary, after.vocabulary
    assert new.size < old.size
    for mine, its in [(new.pad_id, old.pad_id), (new.start_id, old.start_id)]:
        assert after.kept[mine] == its
    assert after.kept[new.eos_id] == old.eos_id
    row = after.model.state_dict()["embedding.weight"][new.start_id]
    assert torch.equal(row, before.model.state_dict()["embedding.weight"][old.start_id])


def test_texts_are_of_corpora_and_files(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "train.jsonl").write_text('{"source": "a", "references": ["b", "c"]}\n')
    (tmp_path / "text").write_text("d\ne\n")
    assert list(texts_of([corpus], [tmp_path / "text"])) == ["a", "b", "c", "d", "e"]
    row = '{"source": "a", "references": [], "candidates": [{"text": "x", "score": -1}]}\n'
    (corpus / "train.jsonl").write_text(row)
    (corpus / "distillation.json").write_text("{}")
    assert list(texts_of([corpus], [])) == ["a", "x"]


def test_a_missing_text_leaves_nothing_behind(tmp_path: Path) -> None:
    whole(tmp_path / "whole")
    with pytest.raises(UserError, match="does not exist"):
        trim_directory(tmp_path / "whole", tmp_path / "small", texts_of([], [tmp_path / "none"]))
    assert not (tmp_path / "small").exists()


def test_what_it_is_made_of_is_never_replaced(tmp_path: Path) -> None:
    whole(tmp_path / "whole")
    before = content_revision(tmp_path / "whole")
    with pytest.raises(UserError, match="whole is there already; choose another --output"):
        trim_directory(tmp_path / "whole", tmp_path / "whole", TASK)
    assert content_revision(tmp_path / "whole") == before
