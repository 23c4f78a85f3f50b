"""Summaries through trainer and commands: long sources cut and told of, ROUGE, more references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imitkd.cli.main import main
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.rouge import score_summaries
from seq2seq.translation import translate
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service.server import ServerThread
from tests.builders import tiny_text
from tests.unit.teacher_service.support import tiny_config

pytest.importorskip("rouge_score")

LIMIT = 12


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters whose subject is their first word; in validation others name another one too."""
    directory = tmp_path_factory.mktemp("letters")
    lines = tiny_text(60, seed=4)
    for split, part in {"train": lines[:48], "validation": lines[48:]}.items():
        rows = []
        for number, text in enumerate(part):
            words = text.split()
            more = [words[-1], text][: number % 3] if split == "validation" else []
            rows.append({"source": text, "references": [words[0], *more]})
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return directory


def test_a_summariser_is_trained_and_scored(
    letters: Path,
    tiny_teacher: Path,
    plain_config: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=2048)) as server:
        plain = plain_config | {
            "method": "imitkd-full",
            "teacher": {"address": server.address},
            "corpus": {"path": str(letters), "long_sources": "cut"},
            "model": plain_config["model"] | {"max_source_length": LIMIT},
            "validation": {"metric": "rouge", "every": 4, "sentences": 12},
        }
        train(make_config(plain), run)
    directory = load_model_directory(run / "student")
    sources = [e.source for e in read_split(letters, "train")]
    long = sum(len(directory.vocabulary.encode_source(s)) > LIMIT for s in sources)
    assert long > 10
    told = [r.getMessage() for r in caplog.records if "are cut" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"{long} training sources are cut to their first {LIMIT} ids")

    summary = json.loads((run / "summary.json").read_text())
    assert (summary["sources_cut"], summary["sentences_left_out"]) == (long, 0)
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [r for r in records if r["kind"] == "validation"]
    best = [r for r in found if r["best"]][-1]
    kinds = ("rouge1", "rouge2", "rougeL")
    assert sum(best[k] for k in kinds) == max(sum(r[k] for k in kinds) for r in found)
    assert [summary[f"validation_{k}"] for k in kinds] == [best[k] for k in kinds]
    assert "validation, greedy: ROUGE-1 " in (run / "student" / "README.md").read_text()

    given = read_split(letters, "validation")
    assert {len(e.references) for e in given} == {1, 2, 3}
    arguments = ["--split", "validation", "--metric", "rouge", "--json", str(tmp_path / "e.json")]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run / "student"), str(letters), *arguments])
    assert not ended.value.code
    evaluation = json.loads((tmp_path / "e.json").read_text())
    texts = translate(directory.model, directory.vocabulary, [e.source for e in given])
    expected = score_summaries(texts, [e.references for e in given])
    assert evaluation["translations"] == texts and evaluation["sources_cut"] > 0
    assert {k: evaluation[k] for k in expected.as_dict()} == expected.as_dict()
    lines = capsys.readouterr().out.splitlines()
    assert f"ROUGE-1 {expected.rouge1:.2f}   ROUGE-2 {expected.rouge2:.2f}" in lines[2]
    assert lines[1] == (
        f"{evaluation['sources_cut']} sources are longer than the model takes: their ends are cut"
    )
