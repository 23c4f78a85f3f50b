"""Teachers of ``transformers`` and ensembles, served over a real connection, and distilled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from seq2seq import decoding
from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from seq2seq.tokenizers_vocabulary import TokenizersVocabulary
from seq2seq.vocabulary import load_vocabulary
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service import codec
from teacher_service.client import TeacherClient
from teacher_service.errors import TeacherRefused
from teacher_service.local_model import load_local_model
from teacher_service.server import ServerThread
from tests.huggingface_teachers import (
    BOS,
    EOS,
    GERMAN,
    PAD,
    V,
    random_library,
    save_teacher,
    word_tokenizer,
)
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

SOURCES = [[7, 8, 9, 10, 11, EOS], [20, EOS], [30, 31, 32, EOS]]
TARGETS = [[12, 13, 14, EOS], [], [9, 9]]


def log_probs(
    library: Any,
    source: list[int],
    start: tuple[int, ...],
    target: list[int],
    temperature: float = 1,
) -> np.ndarray:
    """``[T, V]``, from the library's own forward of one pair alone."""
    inputs = torch.tensor([[*start, *target]])
    with torch.no_grad():
        logits = library(input_ids=torch.tensor([source]), decoder_input_ids=inputs).logits[0]
    rows = logits[len(start) - 1 : len(start) - 1 + len(target)].double()
    return (rows / temperature).log_softmax(-1).numpy()


# -------------------------------------------------------------------------------- one model, served


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A BART with a forced first id, and its directory."""
    library = random_library("bart")
    return library, save_teacher(tmp_path_factory.mktemp("bart"), library)


@pytest.fixture(scope="module")
def client(bart: tuple[Any, Path]) -> Iterator[TeacherClient]:
    with ServerThread(tiny_config(bart[1])) as server, TeacherClient(server.address) as client:
        client.wait_ready(60)
        yield client


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_payload_is_the_librarys_own(client, bart, temperature):
    pairs = zip(SOURCES, TARGETS, strict=True)
    expected = np.concatenate([log_probs(bart[0], s, (EOS, BOS), t, temperature) for s, t in pairs])
    ask = {"sources": SOURCES, "targets": TARGETS, "temperature": temperature}
    full = client.score(payload=codec.FullSpec("float32"), **ask)
    top = client.score(payload=codec.TopKSpec(7, "float32"), **ask)
    best = client.score(payload=codec.ArgmaxSpec("float32"), **ask)
    np.testing.assert_allclose(full.payload.log_probs_PV, expected, atol=2e-5)
    assert (top.payload.ids_PK == (-expected).argsort(axis=1)[:, :7]).all()
    rest = np.sort(expected, axis=1)[:, :-7]
    np.testing.assert_allclose(top.payload.tail_log_mass_P, np.log(np.exp(rest).sum(1)), atol=2e-5)
    assert (best.payload.ids_P == expected.argmax(1)).all()
    actual = [i for target in TARGETS for i in target]
    np.testing.assert_allclose(
        best.token_log_probs_P, expected[np.arange(len(actual)), actual], atol=2e-5
    )


@pytest.mark.parametrize(
    ("mode", "local"),
    [
        (codec.Greedy(), decoding.Greedy()),
        (codec.Sample(5, 0.7, 11), decoding.Sample(5, 0.7, 11)),
        (codec.Beam(3, 2, 0.6), decoding.Beam(3, 2, 0.6)),
    ],
    ids=["greedy", "sample", "beam"],
)
def test_it_writes_as_it_does_here(client, bart, mode, local):
    prefixes = [[9], [], [10, 11]]
    model = load_model_directory(bart[1]).model
    found = client.generate(SOURCES, mode, prefixes=prefixes)
    limit = decoding.LengthLimit(cap=model.config.max_target_length)
    expected = decoding.generate(model, SOURCES, local, limit=limit, prefixes=prefixes)
    assert [[h.ids for h in row] for row in found] == [[h.ids for h in row] for row in expected]
    assert all(row[0].ids[: len(p)] == p for row, p in zip(found, prefixes, strict=True))


def test_its_identity_and_its_tokenizer_come_over_the_wire(client, bart, tmp_path):
    info = client.model_info()
    assert (info.vocabulary_size, info.pad_id, info.eos_id, info.start_ids) == (V, 1, 2, (EOS, BOS))
    assert (info.max_source_length, info.max_target_length) == (24, 23)
    assert info.parameters == sum(p.numel() for p in bart[0].parameters() if p.requires_grad)
    for name, content in client.artifact("tokenizer").items():
        (tmp_path / name).write_bytes(content)
    vocabulary = load_vocabulary(tmp_path)
    assert isinstance(vocabulary, TokenizersVocabulary)
    assert vocabulary.fingerprint == info.fingerprint
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bart[1] / "tokenizer.json"))
    assert vocabulary.encode_source("w3 w1 unheard") == tokenizer("w3 w1 unheard").input_ids


def test_a_language_code_behind_the_end_of_a_source_is_its_tokenizers_affair(tmp_path, client):
    library = random_library("mbart")
    words = word_tokenizer([f"w{i}" for i in range(20)], "$A </s> de_DE")
    path = save_teacher(tmp_path, library, words)
    source = [7, 8, EOS, GERMAN]
    with ServerThread(tiny_config(path)) as server, TeacherClient(server.address) as german:
        german.wait_ready(60)
        found = german.score([source], [[9, 10]], codec.FullSpec("float32")).payload
        with pytest.raises(TeacherRefused, match="goes on after the end symbol"):
            german.score([[7, EOS, 8, EOS, GERMAN]], [[9]], codec.ArgmaxSpec())
        with pytest.raises(TeacherRefused, match=r"target_ids: goes on after the end symbol"):
            german.score([source], [[9, EOS, GERMAN]], codec.ArgmaxSpec())
    expected = log_probs(library, source, (GERMAN,), [9, 10])
    np.testing.assert_allclose(found.log_probs_PV, expected, atol=2e-5)
    with pytest.raises(TeacherRefused, match="goes on after the end symbol"):
        client.score([source], [[9]], codec.ArgmaxSpec())


# ---------------------------------------------------------------------------------------- ensembles


def test_an_ensemble_of_families_is_the_mean_of_their_distributions(tmp_path):
    """T5 and Marian share a tokenizer here, and begin targets with the same id."""
    libraries = [random_library("t5"), random_library("marian"), random_library("t5", seed=1)]
    paths = [save_teacher(tmp_path / str(i), library) for i, library in enumerate(libraries)]
    config = tiny_config(paths[0], members=paths[1:])
    expected = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        rows = [np.exp(log_probs(library, source, (PAD,), target)) for library in libraries]
        expected.append(np.log(np.mean(rows, axis=0)))
    mixture = np.concatenate(expected)
    tempered = mixture / 2 - np.log(np.exp(mixture / 2).sum(1, keepdims=True))
    with ServerThread(config) as server, TeacherClient(server.address) as client:
        client.wait_ready(60)
        info = client.model_info()
        plain = client.score(SOURCES, TARGETS, codec.FullSpec("float32")).payload
        warm = client.score(SOURCES, TARGETS, codec.FullSpec("float32"), temperature=2.0).payload
        written = client.generate(SOURCES, codec.Greedy(), limit=codec.LengthLimit(0, 1, 1))
        assert client.artifact("tokenizer").keys() == {"tokenizer.json", "vocabulary.json"}
    np.testing.assert_allclose(plain.log_probs_PV, mixture, atol=2e-5)
    np.testing.assert_allclose(warm.log_probs_PV, tempered, atol=2e-5)
    for source, row in zip(SOURCES, written, strict=True):
        first = np.mean([np.exp(log_probs(m, source, (PAD,), [5])) for m in libraries], axis=0)[0]
        first[PAD] = 0
        assert row[0].ids == [int(first.argmax())]
    assert (info.hidden_size, info.max_source_length) == (0, 24)
    assert info.name == "0 + 1 + 2"
    assert info.revision not in {load_model_directory(path).revision for path in paths}


def test_an_ensemble_of_different_vocabularies_is_one_clear_line(tmp_path, bart):
    save_tiny_teacher(tmp_path / "ours")
    with pytest.raises(UserError, match="different vocabularies") as caught:
        load_local_model([bart[1], tmp_path / "ours"], "cpu", "fp32", 1)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- distillation


@pytest.fixture(scope="module")
def reversing_t5(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 that has begun to learn its corpus, with a byte-pair tokenizer trained on it."""
    examples = read_split(tiny_corpus, "train")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([e.source for e in examples], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    size = tokenizer.get_vocab_size() + 8  # as T5 has, more ids than pieces
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    library = random_library("t5", vocab_size=size, d_model=32, d_ff=64, num_layers=1, **ids)
    pairs = [
        (tokenizer.encode(e.source).ids, tokenizer.encode(e.references[0]).ids) for e in examples
    ]
    optimiser = torch.optim.Adam(library.parameters(), lr=0.01)
    for step in range(60):
        rows = [pairs[i % len(pairs)] for i in range(24 * step, 24 * step + 24)]
        source, _ = pad_sequences([s for s, _ in rows], 0)
        target, _ = pad_sequences([t for _, t in rows], -100)
        optimiser.zero_grad()
        library(
            input_ids=source, attention_mask=(source != 0).long(), labels=target
        ).loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("t5")
    library.eval().save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_a_student_learns_from_it_with_its_tokenizer(
    reversing_t5: Path, plain_config: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    served = tiny_config(reversing_t5, batch_tokens=2048)
    with ServerThread(served) as server:
        plain = plain_config | {
            "method": "imitkd-full",
            "vocabulary": {"served": True},
            "teacher": {"address": server.address},
            "batch": {"sentences": 16},
            "loss": {"top_k": 16},
        }
        plain["model"] = plain["model"] | {"d_model": 32, "ffn": 64}
        optimiser = {"steps": 70, "learning_rate": 0.015, "warmup": 5}
        plain["optimiser"] = plain["optimiser"] | optimiser
        result = train(make_config(plain), tmp_path / "run")
    assert result.steps == 70
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("kind") == "step"]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    teacher = load_model_directory(reversing_t5)
    before, after = (load_model_directory(tmp_path / "run" / n) for n in ("initial", "student"))
    assert isinstance(after.vocabulary, TokenizersVocabulary)
    assert after.vocabulary.fingerprint == teacher.vocabulary.fingerprint
    assert (after.model.config.pad_id, after.model.config.start_id) == (0, 0)
    far, near = (divergence(teacher, student, tiny_corpus) for student in (before, after))
    assert near < 0.5 * far, (near, far)


def divergence(teacher: Any, student: Any, corpus: Path) -> float:
    """Mean KL(teacher || student) in nats, behind the references of unseen sentences."""
    examples = read_split(corpus, "validation")
    vocabulary = teacher.vocabulary
    source = pad_sequences([vocabulary.encode_source(e.source) for e in examples], 0)
    target, lengths = pad_sequences(
        [vocabulary.encode_target(e.references[0]) for e in examples], 0
    )
    real = torch.arange(target.shape[1]) < lengths[:, None]
    with torch.no_grad():
        p, q = (
            m.model(*source, decoder_inputs(target, m.model.config.start_id))[real].log_softmax(-1)
            for m in (teacher, student)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())
