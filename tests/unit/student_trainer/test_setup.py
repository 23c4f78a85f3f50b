"""Collaborators built from a configuration: starting from layers, data, vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seq2seq.checkpoint import (
    load_model_directory,
    load_model_vocabulary,
    save_model_directory,
)
from seq2seq.errors import UserError
from seq2seq.vocabulary import SentencePieceVocabulary
from student_trainer.config import InitialiseConfig, RunConfig
from student_trainer.setup import (
    copy_layers,
    make_model,
    make_vocabulary,
    make_worker,
    prepare_vocabulary,
    student_bytes,
)
from student_trainer.teachers import make_teacher
from student_trainer.training_data import make_data
from teacher_service.server import ServerThread
from tests.builders import tiny_model, tiny_vocabulary
from tests.unit.teacher_service.support import tiny_config

VOCABULARY = tiny_vocabulary()


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of three encoder and three decoder layers, all different."""
    model = tiny_model(1, vocab_size=VOCABULARY.size, encoder_layers=3, decoder_layers=3)
    path = tmp_path_factory.mktemp("deep") / "model"
    save_model_directory(path, model, VOCABULARY, name="deep", card="", dtype=torch.float32)
    return path


def start_from(path: Path, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> InitialiseConfig:
    return InitialiseConfig.model_validate(
        {"from": path, "encoder_layers": encoder, "decoder_layers": decoder}
    )


def layer(model: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {
        k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_chosen_layers_are_copied_and_everything_outside_layers_comes_along(deep):
    given = load_model_directory(deep).model
    model = tiny_model(2, vocab_size=VOCABULARY.size, encoder_layers=2, decoder_layers=1)
    copy_layers(model, VOCABULARY, start_from(deep, (0, 2), (1,)))
    for new, old in [
        ("encoder_layers.0.", "encoder_layers.0."),
        ("encoder_layers.1.", "encoder_layers.2."),
        ("decoder_layers.0.", "decoder_layers.1."),
        ("embedding.", "embedding."),
        ("logit_bias", "logit_bias"),
        ("encoder_norm.", "encoder_norm."),
        ("decoder_norm.", "decoder_norm."),
    ]:
        assert layer(model, new) and same(layer(model, new), layer(given, old)), new


def test_all_layers_give_the_model_itself(deep):
    model = tiny_model(2, vocab_size=VOCABULARY.size, encoder_layers=3, decoder_layers=3)
    copy_layers(model, VOCABULARY, start_from(deep, (0, 1, 2), (0, 1, 2)))
    assert same(layer(model, ""), layer(load_model_directory(deep).model, ""))


@pytest.mark.parametrize(
    ("encoder", "decoder", "expected"),
    [
        ((0, 3), (0,), "has no layer 3"),
        ((0, -1), (0,), "has no layer -1"),
        ((0,), (0,), "one entry for each layer"),
        ((0, 1, 2), (0,), "one entry for each layer"),
        ((0, 1), (0, 1), "one entry for each layer"),
    ],
)
def test_layers_that_do_not_fit_are_refused(deep, encoder, decoder, expected):
    model = tiny_model(2, vocab_size=VOCABULARY.size, encoder_layers=2, decoder_layers=1)
    with pytest.raises(UserError, match=expected) as caught:
        copy_layers(model, VOCABULARY, start_from(deep, encoder, decoder))
    assert "\n" not in str(caught.value)


def test_a_side_without_chosen_layers_stays_as_it_was_drawn(deep):
    given = load_model_directory(deep).model
    model = tiny_model(2, vocab_size=VOCABULARY.size, kind="recurrent", cell="sru")
    drawn = {k: v.clone() for k, v in layer(model, "decoder_layers.").items()}
    copy_layers(model, VOCABULARY, start_from(deep, (2, 1), ()))
    assert same(layer(model, "decoder_layers."), drawn)
    assert same(layer(model, "encoder_layers.0."), layer(given, "encoder_layers.2."))
    assert same(layer(model, "embedding."), layer(given, "embedding."))


def test_another_width_is_refused(deep):
    model = tiny_model(2, vocab_size=VOCABULARY.size, d_model=32)
    with pytest.raises(UserError, match="the same widths are needed"):
        copy_layers(model, VOCABULARY, start_from(deep, (0, 1), (0, 1)))


def test_another_vocabulary_is_refused(deep):
    other = tiny_vocabulary(40)
    model = tiny_model(2, vocab_size=other.size)
    with pytest.raises(UserError, match="another vocabulary than the run"):
        copy_layers(model, other, start_from(deep, (0, 1), (0, 1)))


@pytest.fixture
def config_of(plain_config: dict[str, Any]) -> Callable[..., RunConfig]:
    return lambda **changes: RunConfig(**(plain_config | changes))


def test_a_worker_does_not_read_the_layers_it_will_not_use(config_of, deep):
    """Weights come with the first version; a worker's node need not have the directory."""
    gone = {"from": "gone", "encoder_layers": [0], "decoder_layers": [0]}
    config = config_of(method="imitkd", teacher={"address": "x:1"}, initialise=gone)
    data = make_data(config, VOCABULARY)
    worker = make_worker(config, VOCABULARY, data, None)
    assert worker.version is None
    with pytest.raises(UserError, match="gone"):
        make_model(config, VOCABULARY)


def test_the_size_of_a_version_is_that_of_its_weights(config_of):
    model = make_model(config_of(), VOCABULARY)
    size = sum(t.nbytes for t in model.state_dict().values())
    assert student_bytes(config_of(), VOCABULARY) == size


def test_batches_cover_every_row_once_an_epoch(config_of):
    data = make_data(config_of(batch={"sentences": 7}), VOCABULARY)
    count = -(-len(data.split) // 7)
    rows = [int(r) for i in range(count) for r in data.plan.rows(i)]
    assert sorted(rows) == list(range(len(data.split)))


def test_sentences_without_references_are_refused(config_of, tmp_path):
    lines = [{"source": "ab", "references": ["ba"]}, {"source": "cd", "references": []}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with pytest.raises(UserError, match="have no reference, which method vanilla needs"):
        make_data(config_of(corpus={"path": tmp_path}), VOCABULARY)


def test_the_students_special_ids_are_the_vocabularys(config_of):
    other = SimpleNamespace(size=50, pad_id=4, eos_id=7, start_id=7)
    found = make_model(config_of(), other).config
    assert (found.vocab_size, found.pad_id, found.eos_id, found.start_id) == (50, 4, 7, 7)
    usual = make_model(config_of(), VOCABULARY).config
    assert (usual.vocab_size, usual.pad_id, usual.eos_id, usual.start_id) == (48, 0, 1, 3)


def test_the_vocabulary_of_the_teacher_that_answers(config_of, tiny_teacher, tmp_path):
    with ServerThread(tiny_config(tiny_teacher)) as server:
        config = config_of(vocabulary={"served": True}, teacher={"address": server.address})
        found = prepare_vocabulary(config, tmp_path)
    assert found.fingerprint == load_model_vocabulary(tiny_teacher).fingerprint
    # Kept with the run: its other processes need no teacher for it.
    assert prepare_vocabulary(config, tmp_path).fingerprint == found.fingerprint


def test_a_run_keeps_one_vocabulary(config_of, tiny_corpus, tmp_path):
    config = config_of(vocabulary={"size": 40})
    first = prepare_vocabulary(config, tmp_path)
    assert first.size == 40
    again = prepare_vocabulary(config_of(vocabulary={"size": 30}), tmp_path)
    assert again.fingerprint == first.fingerprint
    assert make_vocabulary(config).fingerprint == first.fingerprint


def test_a_vocabulary_is_written_whole_or_not_at_all(config_of, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SentencePieceVocabulary, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_vocabulary(config_of(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_pinned_to_the_revision_it_began_with(config_of):
    config = config_of(method="imitkd", teacher={"address": "x:1"})
    assert config.teacher.revision is None
    pinned = config.pinned_to("sha256:aa")
    assert pinned.teacher.revision == "sha256:aa" and pinned.teacher.address == ("x:1",)
    assert pinned.pinned_to(None) == pinned
    assert config_of().pinned_to("sha256:aa") == config_of()


def test_no_teacher_is_asked_where_no_method_needs_one(config_of):
    assert make_teacher(config_of(teacher={"address": "x:1"}), VOCABULARY) is None
