"""Rows and tables made anew from hypotheses on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imitkd.corpora.store import CorpusInfo, write_corpus
from imitkd.study.cell_files import CellFacts, CellFiles
from imitkd.study.plan import StudyConfig
from imitkd.study.runner import Study
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from seq2seq.metrics import score_translations
from tests.unit.imitkd.test_study_plan import plain
from tests.unit.imitkd.test_study_significance import REFERENCE, worse

ROW_KEYS = {
    "method", "student", "seed", "test", "bleu_greedy", "bleu_beam5", "chrf", "ci_low", "ci_high",
    "delta_vs_vanilla", "p_vs_vanilla", "delta_vs_seqkd", "p_vs_seqkd", "parameters",
    "greedy_sentences_per_s", "train_seconds",
}  # fmt: skip
# How much each method's texts are spoilt, by seed.
SPOILT = {"vanilla": 0.5, "seqkd": 0.35, "imitkd-full": 0.2}


def settings_of(corpus: Path, variants: list[Any]) -> StudyConfig:
    splits = ["test", "test_2"]
    return StudyConfig(
        **plain(corpus=corpus, tests=splits, variants=variants, seeds=[1, 2], resamples=100)
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A finished study of three methods, two seeds and two test splits; one cell is missing."""
    corpus = tmp_path / "corpus"
    examples = [Example(f"source {i}", (text,)) for i, text in enumerate(REFERENCE)]
    info = CorpusInfo("c", "xx", "yy", "none", "a test", (), "sha256:c")
    write_corpus(
        corpus,
        info,
        {"train": examples, "validation": examples, "test": examples, "test_2": examples[:40]},
    )
    settings = settings_of(corpus, list(SPOILT))
    write_cell(
        tmp_path / "out/cells/teacher", CellFacts("teacher", None, None, 9000, speeds(), None)
    )
    for method in SPOILT:
        for seed in (1, 2):
            if (method, seed) == ("seqkd", 2):
                continue
            facts = CellFacts(method, "small", seed, 1000, speeds(), 10.0 * seed)
            write_cell(tmp_path / f"out/cells/small/{method}/seed{seed}", facts)
    return Study(settings, tmp_path / "out", tmp_path / "runs")


def speeds() -> dict[str, float]:
    return {"test": 50.0, "test_2": 60.0}


def texts(method: str, seed: int | None, how: str) -> list[str]:
    return worse(REFERENCE, SPOILT.get(method, 0.05), seed=hash_of(method, seed, how))


def hash_of(*key: Any) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(repr(key)))


def write_cell(path: Path, facts: CellFacts) -> None:
    files = CellFiles(path)
    for test, count in (("test", 80), ("test_2", 40)):
        for how in ("greedy", "beam5"):
            files.write_texts(test, how, texts(facts.method, facts.seed, how)[:count])
    files.write_facts(facts)


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return found


def test_rows_are_what_the_texts_score(study: Study, tmp_path: Path) -> None:
    results = study.rescore()
    rows = results["rows"]
    assert len(rows) == 2 * (1 + 5) and all(row.keys() >= ROW_KEYS for row in rows)
    for method, seed, test, count in (("imitkd-full", 2, "test_2", 40), ("vanilla", 1, "test", 80)):
        row = row_of(rows, method=method, seed=seed, test=test)
        references = [[r] for r in REFERENCE[:count]]
        greedy = score_translations(texts(method, seed, "greedy")[:count], references)
        beam = score_translations(texts(method, seed, "beam5")[:count], references)
        assert row["bleu_greedy"] == pytest.approx(greedy.bleu) == row["metric"]
        assert (row["bleu_beam5"], row["chrf"]) == pytest.approx((beam.bleu, greedy.chrf))
        assert row["ci_low"] < row["bleu_greedy"] < row["ci_high"]
        assert (row["parameters"], row["train_seconds"]) == (1000, 10.0 * seed)
        assert row["greedy_sentences_per_s"] == speeds()[test]
        assert results["signatures"]["bleu"] == greedy.bleu_signature
    teacher = row_of(rows, method="teacher", test="test")
    assert [teacher[k] for k in ("student", "seed", "train_seconds", "p_vs_vanilla")] == [None] * 4
    assert results["unfinished"] == ["small/seqkd/seed2"]
    assert json.loads((tmp_path / "out/results.json").read_text()) == results


def test_summaries_are_told_apart_by_rouge(study: Study, tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    settings = study._study.model_copy(update={"metric": "rouge1", "tests": ["test_2"]})
    results = Study(settings, tmp_path / "out", tmp_path / "runs").rescore()
    best = row_of(results["rows"], method="imitkd-full", seed=1)
    assert best["metric"] == pytest.approx(best["rouge1"]) and best["rouge1"] > best["rouge2"]
    assert best["ci_low"] < best["rouge1"] < best["ci_high"] and best["p_vs_vanilla"] < 0.05
    assert results["signatures"]["rouge"].startswith("f1|")
    assert "| ROUGE-1 | ROUGE-2 | ROUGE-L |" in (tmp_path / "out/table.md").read_text()


def test_rows_are_compared_like_with_like(study: Study) -> None:
    results = study.rescore()
    rows = results["rows"]
    vanilla = row_of(rows, method="vanilla", seed=1, test="test")
    assert vanilla["p_vs_vanilla"] is None and vanilla["delta_vs_vanilla"] is None
    best = row_of(rows, method="imitkd-full", seed=1, test="test")
    assert best["p_vs_vanilla"] < 0.05 and 0 < best["p_vs_seqkd"] < 0.2
    assert best["delta_vs_vanilla"] == pytest.approx(best["metric"] - vanilla["metric"])
    # Of the second seed there is no seqkd to compare with, nor of the mean over both.
    alone = row_of(rows, method="imitkd-full", seed=2, test="test")
    assert alone["p_vs_seqkd"] is None and alone["delta_vs_seqkd"] is None
    mean = row_of(results["means"], method="imitkd-full", test="test")
    assert mean["p_vs_seqkd"] is None and mean["p_vs_vanilla"] < 0.05 and mean["seed"] == [1, 2]
    single = [
        row_of(rows, method="imitkd-full", seed=s, test="test")["bleu_greedy"] for s in (1, 2)
    ]
    assert mean["bleu_greedy"] == pytest.approx(sum(single) / 2)
    vanilla = row_of(results["means"], method="vanilla", test="test")
    assert mean["delta_vs_vanilla"] == pytest.approx(mean["metric"] - vanilla["metric"])
    assert mean["ci_high"] - mean["ci_low"] < max(
        row_of(rows, method="imitkd-full", seed=s, test="test")["ci_high"]
        - row_of(rows, method="imitkd-full", seed=s, test="test")["ci_low"]
        for s in (1, 2)
    )


def test_a_variant_names_what_it_is_compared_with(study: Study, tmp_path: Path) -> None:
    # Of seqkd there is no second seed, of vanilla there is.
    usual = row_of(study.rescore()["means"], method="imitkd-full", test="test")
    other = {"method": "imitkd-full", "baselines": {"seqkd": "vanilla"}}
    settings = settings_of(tmp_path / "corpus", ["vanilla", "seqkd", other])
    changed = Study(settings, tmp_path / "out", tmp_path / "runs").rescore()
    found = row_of(changed["means"], method="imitkd-full", test="test")
    assert usual["p_vs_seqkd"] is None
    assert found["p_vs_seqkd"] == found["p_vs_vanilla"] == usual["p_vs_vanilla"]
    assert found["delta_vs_seqkd"] == found["delta_vs_vanilla"] == usual["delta_vs_vanilla"]


def test_the_table_comes_again_from_the_texts(study: Study, tmp_path: Path) -> None:
    study.rescore()
    table = (tmp_path / "out/table.md").read_text()
    for name in ("results.json", "table.md"):
        (tmp_path / "out" / name).unlink()
    study.rescore()
    assert (tmp_path / "out/table.md").read_text() == table
    # Another text is another table.
    files = CellFiles(tmp_path / "out/cells/small/vanilla/seed1")
    files.write_texts("test", "greedy", REFERENCE)
    study.rescore()
    assert (tmp_path / "out/table.md").read_text() != table


def test_the_table_has_a_row_for_each_method_and_split(study: Study, tmp_path: Path) -> None:
    results = study.rescore()
    lines = (tmp_path / "out/table.md").read_text().splitlines()
    assert "## test, 80 sentences" in lines and "## test_2, 40 sentences" in lines
    table = [line for line in lines if line.startswith("| ")]
    rows = [line for line in table if "student" not in line and "---" not in line]
    # Each test split has a table whose columns stand below each other.
    assert len({len(line) for line in table}) <= 2
    assert len(rows) == len(results["means"]) == 8
    mean = row_of(results["means"], method="imitkd-full", test="test")
    (line,) = [r for r in rows if "imitkd-full" in r][:1]
    cells = [cell.strip() for cell in line.split("|")]
    assert {f"{mean['bleu_greedy']:.2f}", "1, 2", "1,000"} <= set(cells)
    assert f"`{results['signatures']['bleu']}`" in lines[-2] + lines[-1] + lines[-3]


def test_texts_of_another_corpus_are_refused(study: Study, tmp_path: Path) -> None:
    CellFiles(tmp_path / "out/cells/small/vanilla/seed1").write_texts("test", "greedy", ["one"])
    with pytest.raises(UserError, match=r"test.greedy.txt has 1 lines for 80 sentences"):
        study.rescore()


def test_a_damaged_cell_is_named_with_the_remedy(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out/cells/small/vanilla/seed1/cell.json").write_text("{")
    with pytest.raises(UserError, match=r"cell.json is no record of a finished cell.*remove"):
        study.rescore()


def test_nothing_finished_yet(study: Study, tmp_path: Path) -> None:
    empty = Study(study._study, tmp_path / "none", tmp_path / "runs")
    with pytest.raises(UserError, match="no finished cell; run the study first"):
        empty.rescore()


def test_line_breaks_and_empty_texts_keep_their_line(tmp_path: Path) -> None:
    files = CellFiles(tmp_path)
    files.write_texts("test", "greedy", ["a\nb", "", "c\u2028d", ""])
    assert files.read_texts("test", "greedy") == ["a b", "", "c d", ""]
