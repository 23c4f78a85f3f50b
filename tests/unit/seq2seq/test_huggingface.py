"""Models of ``transformers`` behind the shared interface: the library itself is the oracle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from seq2seq.batch import pad_sequences
from seq2seq.checkpoint import ModelDirectory, load_model_directory, load_model_vocabulary
from seq2seq.decoding import Beam, Greedy, LengthLimit, Sample, generate
from seq2seq.errors import UserError
from seq2seq.huggingface import HuggingFaceModel, check_against_library
from tests import oracles
from tests.builders import step_sizes
from tests.huggingface_teachers import (
    BOS,
    EOS,
    FAMILIES,
    GERMAN,
    LONGEST,
    PAD,
    UNK,
    V,
    random_library,
    save_teacher,
    word_tokenizer,
)

START_IDS = {
    "bart": (EOS, BOS),
    "mbart": (GERMAN,),
    "m2m_100": (EOS, GERMAN),
}
SOURCES = [[7, 8, 9, 10, 11, EOS], [20, EOS], [30, 31, 32, EOS], [12, 13, 14, 15, EOS], [9, 9, EOS]]
LIMIT = LengthLimit(1.0, 3, LONGEST)


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def save(family: str) -> Path:
        return save_teacher(tmp_path_factory.mktemp(family), random_library(family))

    return cache(save)


@pytest.fixture(scope="module")
def loaded(directory_of: Callable[[str], Path]) -> Callable[[str], ModelDirectory]:
    return cache(lambda family: load_model_directory(directory_of(family)))


@pytest.fixture
def copied(directory_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A BART directory of one's own."""
    return Path(shutil.copytree(directory_of("bart"), tmp_path / "model"))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model_directory(path, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def rewrite(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))


# ------------------------------------------------------------------------------------------- faults


def test_weights_are_never_unpickled(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pickled weights are never read" in refused(copied)


def test_a_missing_shard_is_named(copied):
    (copied / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-1.safetensors is missing" in refused(copied)


def test_broken_weights_are_one_line(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded by transformers" in refused(copied)


def test_weights_that_the_library_would_make_up_are_refused(copied):
    rewrite(copied / "config.json", decoder_layers=3)
    assert "weights are missing or of another shape" in refused(copied)


def test_a_directory_without_a_tokenizer_says_how_to_get_one(copied):
    (copied / "tokenizer.json").unlink()
    assert "save_pretrained" in refused(copied)


def test_a_broken_tokenizer_is_one_line(copied):
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        load_model_directory(copied)


def test_a_tokenizer_of_more_pieces_than_the_model_has_ids_is_refused(copied):
    word_tokenizer(f"w{i}" for i in range(V)).save(str(copied / "tokenizer.json"))
    with pytest.raises(UserError, match=f"more than the model's {V}"):
        load_model_directory(copied)


def test_a_decoder_alone_is_no_teacher(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "is no encoder-decoder" in refused(tmp_path)


def test_an_unknown_family_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    assert "no-such-family" in refused(tmp_path)


def test_code_of_the_directorys_own_is_never_run(copied):
    (copied / "own.py").write_text("raise SystemExit('ran')\n")
    rewrite(
        copied / "config.json",
        model_type="of-its-own",
        auto_map={"AutoConfig": "own.C", "AutoModelForSeq2SeqLM": "own.M"},
    )
    assert "cannot be loaded by transformers" in refused(copied)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pad_token_id": EOS}, "pads with its end symbol"),
        ({"share_encoder_decoder_embeddings": False}, "separate source and target vocabularies"),
    ],
)
def test_what_could_not_be_served_is_refused(copied, changes, expected):
    (copied / "generation_config.json").unlink()
    rewrite(copied / "config.json", **changes)
    assert expected in refused(copied)


def test_an_unknown_target_prefix_is_named(copied):
    assert "'xx_XX' is not a piece" in refused(copied, target_prefix="de_DE xx_XX")


def test_a_target_prefix_is_for_models_of_the_library(tiny_teacher):
    assert "leave --target-prefix out" in refused(tiny_teacher, target_prefix="de_DE")


def test_without_the_library_the_extra_is_named(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'imitkd[huggingface]'" in refused(copied)


@pytest.mark.parametrize("part", ["_scale", "_bias"])
def test_logits_that_differ_from_the_librarys_are_refused(directory_of, part):
    """As with a family that does more behind its decoder than is known here."""
    model = load_model_directory(directory_of("bart")).model
    setattr(model, part, getattr(model, part) * 1.1 + 0.1)
    with pytest.raises(UserError, match=r"some family computes its logits in a way unknown here"):
        check_against_library(model, "some family")


# ------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_librarys_own_forward(loaded, family):
    model = loaded(family).model
    assert isinstance(model, HuggingFaceModel)
    source_BS, lengths_B = pad_sequences(SOURCES, PAD)
    targets = torch.randint(5, V, (len(SOURCES), 6), generator=torch.Generator().manual_seed(1))
    forced = torch.tensor([model.start_ids] * len(SOURCES))
    inputs = torch.cat([forced, targets], dim=1)
    with torch.no_grad():
        expected = model.library(
            input_ids=source_BS,
            attention_mask=(source_BS != PAD).long(),
            decoder_input_ids=inputs,
        ).logits[:, forced.shape[1] - 1 :]
        found = model(source_BS, lengths_B, inputs[:, forced.shape[1] - 1 :])
        alone = model(source_BS[1:2, :2], lengths_B[1:2], inputs[1:2, forced.shape[1] - 1 :])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[0], expected[1], atol=1e-5, rtol=0)
    assert expected.std() > 0.3, "flat logits prove nothing"


def test_the_scale_of_tied_t5_and_the_biases_matter(loaded):
    assert loaded("t5").model._scale == 0.25
    assert loaded("t5-untied").model._scale == loaded("bart").model._scale == 1.0
    for family in ("marian", "bart", "mbart", "pegasus"):
        assert loaded(family).model.output_projection()[1].abs().max() > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_score_nearly_the_same(directory_of, loaded, dtype):
    exact = loaded("bart").model
    narrow = load_model_directory(directory_of("bart"), dtype=dtype).model
    assert narrow.output_projection()[0].dtype == dtype
    source, lengths = pad_sequences(SOURCES, PAD)
    inputs = torch.tensor([[BOS, 8, 9]] * len(SOURCES))
    with torch.no_grad():
        found, expected = (model(source, lengths, inputs).float() for model in (narrow, exact))
    assert 0 < (found - expected).abs().max() < 0.3


# ----------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("family", FAMILIES)
def test_special_ids_limits_and_start_symbols(loaded, family):
    directory = loaded(family)
    config = directory.model.config
    assert (config.vocab_size, config.pad_id, config.eos_id) == (V, PAD, EOS)
    assert directory.model.start_ids == START_IDS.get(family, (PAD,))
    t5 = family.startswith(("t5", "mt5"))
    assert config.max_source_length == (512 if t5 else LONGEST)
    forced = len(directory.model.start_ids) - 1
    assert config.max_target_length == config.max_source_length - forced
    vocabulary = directory.vocabulary
    assert (vocabulary.size, vocabulary.unk_id) == (V, UNK)
    assert vocabulary.start_id == directory.model.start_ids[0]
    assert vocabulary.encode_source("w0 w1 unheard") == [5, 6, UNK, EOS]


def test_older_directories_force_it_in_their_model_configuration(copied):
    (copied / "generation_config.json").unlink()
    assert load_model_directory(copied).model.start_ids == (EOS,)
    rewrite(copied / "config.json", forced_bos_token_id=GERMAN)
    assert load_model_directory(copied).model.start_ids == (EOS, GERMAN)


def test_a_target_prefix_replaces_the_forced_one(directory_of, loaded):
    path = directory_of("bart")
    german = load_model_directory(path, target_prefix="de_DE")
    bare = load_model_directory(path, target_prefix="")
    assert (german.model.start_ids, bare.model.start_ids) == ((EOS, GERMAN), (EOS,))
    revisions = {german.revision, bare.revision, loaded("bart").revision}
    assert len(revisions) == 3
    assert german.vocabulary.fingerprint == loaded("bart").vocabulary.fingerprint


def test_the_revision_is_that_of_the_content(directory_of, loaded, tmp_path):
    same = shutil.copytree(directory_of("marian"), tmp_path / "same")
    (same / "README.md").write_text("a card")
    assert load_model_directory(same).revision == loaded("marian").revision
    other = save_teacher(tmp_path / "other", random_library("marian", seed=1))
    assert load_model_directory(other).revision != loaded("marian").revision


def test_sharded_weights_are_the_same_model(directory_of, loaded, tmp_path):
    loaded("marian").model.library.save_pretrained(tmp_path, max_shard_size="10KB")
    shutil.copy(directory_of("marian") / "tokenizer.json", tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    models = [load_model_directory(tmp_path).model, loaded("marian").model]
    source, lengths = pad_sequences(SOURCES, PAD)
    inputs = torch.tensor([[PAD, 8, 9]] * len(SOURCES))
    with torch.no_grad():
        assert torch.equal(*(model(source, lengths, inputs) for model in models))


def test_the_vocabulary_can_be_had_without_the_weights(copied):
    (copied / "model.safetensors").unlink()
    assert load_model_vocabulary(copied).encode_target("w1") == [6, EOS]


# ----------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_the_librarys_own(loaded, family):
    model = loaded(family).model
    unwritten = {PAD, model.config.start_id} - {EOS}
    for source in SOURCES[:3]:
        length = LIMIT.of(len(source))
        found = model.library.generate(
            torch.tensor([source]),
            attention_mask=torch.ones(1, len(source), dtype=torch.int64),
            num_beams=1,
            do_sample=False,
            max_new_tokens=length + len(model.start_ids) - 1,
            bad_words_ids=[[i] for i in unwritten],
        )[0].tolist()
        ((ours,),) = generate(model, [source], Greedy(), limit=LIMIT)
        assert found[: len(model.start_ids)] == list(model.start_ids)
        assert ours.ids == found[len(model.start_ids) :]


@pytest.mark.parametrize("family", ["t5", "bart", "m2m_100"])
def test_beams_prefixes_and_caches_equal_the_slow_oracle(loaded, family):
    model = loaded(family).model
    prefixes = [[], [9], [], [10, 11], [12]]
    found = generate(model, SOURCES, Beam(3, 3), limit=LIMIT, prefixes=prefixes)
    for source, prefix, row in zip(SOURCES, prefixes, found, strict=True):
        limit = LIMIT.of(len(source))
        best = oracles.beam(model, source, size=3, limit=limit, prefix=prefix)
        assert row[0].ids == best[0][0]
        assert row[0].log_prob == pytest.approx(best[0][1], abs=1e-4)


@pytest.mark.parametrize("family", ["t5", "m2m_100"])
@pytest.mark.parametrize("mode", [Greedy(), Sample(5, 1.3, seed=4)], ids=["greedy", "sample"])
def test_sources_that_join_later_change_nothing(loaded, monkeypatch, family, mode):
    model = loaded(family).model
    alone = [generate(model, [s], mode, limit=LIMIT, keys=[k])[0] for k, s in enumerate(SOURCES)]
    sizes = step_sizes(model, monkeypatch)
    together = generate(model, SOURCES, mode, limit=LIMIT, batch_rows=2)
    assert max(sizes) == 2
    assert [h[0].ids for h in together] == [h[0].ids for h in alone]
    for one, other in zip(together, alone, strict=True):
        assert one[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-4)


def test_finished_rows_may_run_past_the_position_table(loaded):
    model = loaded("bart").model
    with torch.no_grad():
        state = model.start(model.encode(*pad_sequences(SOURCES[:2], PAD)))
        for _ in range(model.config.max_target_length):
            hidden = model.step(torch.tensor([8, 9]), state)
        assert hidden.abs().sum() > 0
        assert model.step(torch.tensor([8, 9]), state).abs().sum() == 0
