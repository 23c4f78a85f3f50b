"""A trained teacher is a model directory whose card says what it is and how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from imitkd.corpora import OwnFiles, TextFiles, prepare
from imitkd.scoring import evaluate_directory
from imitkd.teacher_training import train_teacher
from seq2seq.checkpoint import content_revision, load_model_directory
from seq2seq.errors import UserError
from tests.builders import tiny_text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    lines = list(dict.fromkeys(tiny_text(140)))
    rows = "".join(f"{line}\t{' '.join(line.split()[::-1])}\n" for line in lines)
    (directory / "rows.tsv").write_text(rows)
    own = OwnFiles(
        TextFiles(table=directory / "rows.tsv"),
        held_out={"validation": 4, "test": 5},
        source_language="xx",
        target_language="yy",
        licence="CC0",
    )
    prepare("words", directory / "words", own=own)
    return directory / "words"


@pytest.fixture
def config(plain_config: dict[str, Any], corpus: Path) -> dict[str, Any]:
    return plain_config | {
        "name": "small-teacher",
        "corpus": {"path": str(corpus)},
        "vocabulary": {"size": 48},
        "optimiser": {"steps": 4, "warmup": 1},
        "validation": {"every": 2, "sentences": 4},
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_card_holds_what_was_measured(
    config: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "teacher.yaml", config)
    made = train_teacher(file, ["seed=5"], tmp_path / "run")
    assert made == tmp_path / "run" / "teacher"
    card = (made / "README.md").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    described = json.loads((corpus / "corpus.json").read_text())
    assert load_model_directory(made).name == "small-teacher"
    assert content_revision(made) == content_revision(tmp_path / "run" / "student")
    for beam, label in ((1, "greedy"), (5, "beam 5")):
        scores = evaluate_directory(made, corpus, "test", beam=beam)
        assert f"| test | {label} | {scores['bleu']:.2f} | {scores['chrf']:.2f} |" in card
    assert f"{scores['parameters']:,} parameters" in card
    assert f"the {described['splits']['train']:,} training pairs of `words` (xx -> yy)" in card
    assert "licence of the text: CC0." in card
    assert described["fingerprint"] in card
    assert f"best of 4 steps is step {summary['best_step']}" in card
    assert f"`imitkd data prepare words` and `imitkd teacher train {file} seed=5`" in card
    modes = {p.name: p.stat().st_mode & 0o777 for p in made.iterdir() if p.is_file()}
    assert set(modes.values()) == {modes["config.json"]}, "readable for whoever reads the others"
    assert scores["bleu_signature"] in card and scores["chrf_signature"] in card


def test_the_card_of_a_summariser_has_rouge(
    config: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rouge_score")
    config["model"] |= {"kind": "recurrent", "cell": "gru"}
    config["validation"] |= {"metric": "rouge"}
    made = train_teacher(write(tmp_path / "teacher.yaml", config), [], tmp_path / "run")
    card = (made / "README.md").read_text()
    scores = evaluate_directory(made, corpus, "test", beam=5, metric="rouge")
    shown = " | ".join(f"{scores[key]:.2f}" for key in ("rouge1", "rouge2", "rougeL"))
    assert f"| test | beam 5 | {shown} |" in card and scores["rouge_signature"] in card
    assert "Recurrent encoder-decoder" in card and "BLEU" not in card


def test_without_a_test_split_the_validation_split_is_scored(
    config: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("train.jsonl", "validation.jsonl", "corpus.json"):
        (bare / name).write_bytes((corpus / name).read_bytes())
    (bare / "test.jsonl").write_text('{"source": "ab", "references": []}\n')
    config |= {"corpus": {"path": str(bare)}, "optimiser": {"steps": 1, "warmup": 0}}
    made = train_teacher(write(tmp_path / "teacher.yaml", config), [], tmp_path / "run")
    rows = [x for x in (made / "README.md").read_text().splitlines() if x.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| split", "| validation", "| validation"]


def test_a_teacher_learns_from_references(config: dict[str, Any], tmp_path: Path) -> None:
    config |= {"method": "imitkd", "teacher": {"address": "127.0.0.1:1"}}
    with pytest.raises(UserError, match=r"method vanilla\), not imitkd; use `imitkd train`"):
        train_teacher(write(tmp_path / "teacher.yaml", config), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_undescribed_corpus_is_told_before_the_training(
    config: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    config |= {"corpus": {"path": str(tiny_corpus)}}
    with pytest.raises(UserError, match=r"corpus\.json is missing"):
        train_teacher(write(tmp_path / "teacher.yaml", config), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()
