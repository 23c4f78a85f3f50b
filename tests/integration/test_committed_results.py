"""The committed tables follow from the committed texts, digit for digit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imitkd.corpora import prepare
from imitkd.study.plan import load_study
from imitkd.study.runner import RESULTS_FILE, TABLE_FILE, Study

ROOT = Path(__file__).parents[2]
RAW = ROOT.parent / "shared" / "data"
STUDIES = sorted(path.parent.name for path in (ROOT / "results").glob(f"*/{RESULTS_FILE}"))


@pytest.mark.parametrize("name", STUDIES)
def test_results_and_table_are_made_anew_from_the_texts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(ROOT / "configs" / "studies" / f"{name}.yaml")
    raw = RAW / study.corpus.name.split("-")[0]
    if not (ROOT / study.corpus).is_dir() and not raw.is_dir():
        pytest.skip(f"{study.corpus} is not prepared, and its files are not at hand")
    monkeypatch.chdir(tmp_path)
    if (ROOT / study.corpus).is_dir():
        study.corpus.parent.mkdir()
        study.corpus.symlink_to(ROOT / study.corpus)
    else:
        prepare(study.corpus.name, study.corpus, source=raw)
    shutil.copytree(ROOT / "results" / name / "cells", tmp_path / "cells")
    Study(study, tmp_path, tmp_path / "runs").rescore()
    for made in (RESULTS_FILE, TABLE_FILE):
        assert (tmp_path / made).read_text() == (ROOT / "results" / name / made).read_text()
