"""From a file of sources alone to a student: prepared, distilled for validation, imitated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imitkd.corpora import OwnFiles, TextFiles, prepare
from imitkd.distilling.distil import distil_corpus
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service.client import TeacherClient
from teacher_service.codec import Greedy
from teacher_service.server import ServerThread
from tests.builders import save_brief_teacher, tiny_text
from tests.unit.teacher_service.support import tiny_config


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Prepared from one file of sources."""
    file = tmp_path / "text.en"
    file.write_text("".join(line + "\n" for line in tiny_text(40, seed=3)))
    own = OwnFiles(TextFiles(source=file), held_out={"validation": 6}, source_language="en")
    info = prepare("mine", tmp_path / "mine", own=own)
    assert info.notes[0].endswith("train rows are source-only.")
    return tmp_path / "mine"


def test_a_student_learns_from_sources_alone(corpus, plain_config, tmp_path):
    teacher = save_brief_teacher(tmp_path / "teacher")
    with ServerThread(tiny_config(teacher)) as server:
        plain: dict[str, Any] = plain_config | {
            "method": "imitkd-full",
            "vocabulary": {"served": True},
            "teacher": {"address": server.address, "timeout_s": 20.0},
            "optimiser": {"steps": 3, "learning_rate": 0.01, "warmup": 2},
            "mixing": {"schedule": "constant", "value": 0.0},
            "corpus": {"path": str(corpus)},
        }
        with pytest.raises(UserError, match=r"validation has 4 sentences.*`imitkd data distil`"):
            train(make_config(plain), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
        distilled = tmp_path / "distilled"
        with TeacherClient(server.address) as client:
            distil_corpus(client, corpus, distilled, Greedy(), splits=["validation"])
        assert (distilled / "train.jsonl").read_bytes() == (corpus / "train.jsonl").read_bytes()
        assert all(e.references for e in read_split(distilled, "validation"))
        plain["corpus"] = {"path": str(distilled)}
        kept = plain | {"mixing": {"schedule": "linear"}}
        with pytest.raises(UserError, match="have no reference, which method imitkd-full needs"):
            train(make_config(kept), tmp_path / "refused")
        result = train(make_config(plain), tmp_path / "run")
    assert result.steps == 3 and result.best is not None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [r for r in map(json.loads, lines) if r["kind"] == "step"]
    assert [r["student_share"] for r in steps] == [1.0, 1.0, 1.0]
    assert all(r["scored_sentences"] == r["sentences"] for r in steps)
