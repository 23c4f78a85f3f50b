"""The report: what it says is what was read, it needs no network, and a browser opens it."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from imitkd.cli.main import main
from imitkd.report import write_report
from imitkd.report.figures import Palette, quality_and_speed
from imitkd.report.reading import read_run, read_study
from imitkd.report.tables import run_table, study_tables
from seq2seq.errors import UserError
from student_trainer.config import dump_config, make_config

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

METHODS = {"teacher": 40.0, "vanilla": 30.0, "imitkd-full": 36.0}


def write_run(path: Path, plain: dict[str, Any], name: str, bleus: list[float]) -> Path:
    """A run directory of ten steps with these validations."""
    path.mkdir(parents=True)
    config = make_config(plain | {"name": name})
    (path / "config.yaml").write_text(dump_config(config))
    records: list[dict[str, Any]] = [
        {"kind": "step", "step": n + 1, "loss": 5.0 / (n + 1), "beta": 1 - n / 20}
        | {"student_share": n / 20}
        for n in range(10)
    ]
    for n, bleu in enumerate(bleus):
        said = [["Open <b>it</b> & go", f"{name} writes {n}", "Öffnen & los"]]
        values = {"bleu": bleu, "chrf": 50.0, "loss": 1.0, "best": bleu == max(bleus[: n + 1])}
        records.append({"kind": "validation", "step": 5 * n + 5, "examples": said} | values)
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = {"batches": 10, "validation_bleu": max(bleus), "train_seconds": 12.5}
    (path / "summary.json").write_text(json.dumps(summary | {"sources_cut": 7}))
    return path


def write_analysis(run: Path) -> None:
    bins = [{"low": 1, "high": 5, "sentences": 10, "student": 20.0, "teacher": 30.0}] * 2
    points = [{"position": t, "sentences": 10, "kl": 0.1 * t} for t in range(4)]
    found = {
        "metric": "bleu",
        "by_length": bins,
        "kl_reference_prefixes": points,
        "kl_own_prefixes": points,
        "teacher_finishes": [{"share": s / 2, "quality": 30.0 - s} for s in range(3)],
    }
    (run / "analysis.json").write_text(json.dumps(found))


def write_study(path: Path, corpus: Path | None = None) -> Path:
    """Results as a study writes them, with the texts of three cells."""
    rows = []
    for method, bleu in METHODS.items():
        of_student = method != "teacher"
        row = {
            "method": method,
            "student": "sru" if of_student else None,
            "seed": 1 if of_student else None,
            "test": "test2016",
            "bleu_greedy": bleu,
            "bleu_beam5": bleu + 1,
            "chrf": bleu + 20,
            "ci_low": bleu - 1.5,
            "ci_high": bleu + 1.5,
            "p_vs_vanilla": 0.0004 if method == "imitkd-full" else None,
            "p_vs_seqkd": None,
            "parameters": 1_234_567,
            "greedy_sentences_per_s": 10 * bleu,
            "train_seconds": 3600.0 if of_student else None,
        }
        rows.append(row)
        cell = path / "cells" / method
        cell.mkdir(parents=True)
        facts = {"method": method, "student": row["student"], "seed": row["seed"]}
        (cell / "cell.json").write_text(json.dumps(facts))
        (cell / "test2016.greedy.txt").write_text(f"the same\n{method} alone says so\nthe end\n")
    results = {"study": "small", "rows": rows, "metric": "bleu", "corpus": {"path": str(corpus)}}
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture
def runs(tmp_path: Path, plain_config: dict[str, Any]) -> list[Path]:
    first = write_run(tmp_path / "a", plain_config, "plain", [10.0, 12.0])
    second = write_run(tmp_path / "b", plain_config, "other", [11.0, 9.0])
    write_analysis(second)
    return [first, second]


class Page(HTMLParser):
    """Text, addresses that a browser would fetch, and elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.fetched, self.elements = "", [], []
        self._open: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._open.append(tag)
        # Inside an SVG a fragment points into the page itself.
        self.fetched += [
            str(value)
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "srcset") and not str(value).startswith("#")
        ]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


def test_a_page_of_runs_and_a_study(runs: list[Path], tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    write_report([study, *runs], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    for heading in (
        "Results",
        "Quality against speed",
        "Learning curves",
        "Exposure bias",
        "Where methods differ: small, test2016",
        "What was run",
        "Student begins, teacher finishes",
    ):
        assert heading in page.text, heading
    for number in ("36.00", "34.50–37.50", "< 0.001", "1,234,567"):
        assert number in page.text, number
    assert page.elements.count("svg") == 7
    assert page.fetched == [] and "script" not in page.elements
    # What people wrote is text, never markup.
    assert "Open <b>it</b> & go" in page.text and "b" not in page.elements
    assert "imitkd-full alone says so" in page.text and "the end" not in page.text


def test_colours_follow_the_theme(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    charts = text[text.index("<svg") : text.rindex("</svg>")]
    assert "var(--s0)" in charts and "var(--ink)" in charts and "var(--grid)" in charts
    assert "#0a0a0" not in charts and "#0a0b" not in charts


def test_the_same_input_gives_the_same_page(runs: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(runs[:1], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_tables(runs: list[Path], tmp_path: Path) -> None:
    (table,) = study_tables(read_study(write_study(tmp_path / "study")), "test2016")
    assert table.columns[:5] == ["method", "student", "seed", "BLEU greedy", "95 % (BLEU)"]
    assert "p vs SeqKD" not in table.columns  # no row has one
    assert table.rows[0][:5] == ["teacher", "", "", "40.00", "38.50–41.50"]
    assert (2, 3) in table.best and not any(row == 0 for row, _ in table.best)
    table = run_table([read_run(path) for path in runs])
    assert table.columns == ["run", "method", "steps", "BLEU", "sources cut", "training s"]
    assert table.rows[0] == ["plain", "vanilla", "10", "12.00", "7", "12"]


def test_means_over_seeds_come_first(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    results = json.loads((path / "results.json").read_text())
    first = results["rows"][1]
    results["rows"].append(first | {"seed": 2, "bleu_greedy": 31.0})
    results["means"] = [first | {"seed": [1, 2], "bleu_greedy": 30.5}]
    (path / "results.json").write_text(json.dumps(results))
    means, rows = study_tables(read_study(path), "test2016")
    assert (means.title, means.folded) == ("small: test2016, means over seeds", False)
    assert means.rows[0][:4] == ["vanilla", "sru", "1, 2", "30.50"]
    assert rows.folded and len(rows.rows) == 4


@pytest.mark.parametrize(
    ("metric", "name"),
    [("bleu", "BLEU"), ("rouge", "ROUGE"), ("rouge1", "ROUGE-1"), ("rougeL", "ROUGE-L")],
)
def test_a_study_of_summaries_is_judged_by_its_metric(
    tmp_path: Path, metric: str, name: str
) -> None:
    path = write_study(tmp_path / "study")
    results = json.loads((path / "results.json").read_text()) | {"metric": metric}
    results["rows"] = [row | {"rouge1": 21.5, "metric": 22.5} for row in results["rows"]]
    (path / "results.json").write_text(json.dumps(results))
    study = read_study(path)
    (table,) = study_tables(study, "test2016")
    assert f"95 % ({name})" in table.columns and "ROUGE-1" in table.columns
    chart = quality_and_speed(study, "test2016", Palette())
    assert chart.y_label == name and {y for line in chart.lines for y in line.y} == {22.5}


def test_sources_and_references_come_from_the_corpus_where_it_is(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = [{"source": f"source {n}", "references": [f"reference {n}"]} for n in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (corpus / "test2016.jsonl").write_text(text)
    write_report([write_study(tmp_path / "study", corpus)], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "source 1" in page.text and "reference 1" in page.text
    assert "source 0" not in page.text  # there all methods agree


def test_a_run_under_way_has_curves_and_no_numbers(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "summary.json").unlink()
    with open(runs[0] / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "st')  # torn
    write_report(runs[:1], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "A run without numbers is not finished." in text and "Validation BLEU" in text


def test_the_command_writes_into_the_first_directory(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(runs[0])])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"{runs[0] / 'report.html'}: ")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (None, "", "is neither a run .* nor a study's results"),
        ("results.json", "{", "is not valid JSON"),
        ("results.json", '{"rows": []}', "has no rows"),
        ("results.json", '{"rows": [{"method": "x"}]}', "row 1 has no bleu_greedy, seed"),
        ("config.yaml", "- 1", "is no resolved configuration"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, file: str | None, content: str, message: str) -> None:
    if file is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        write_report([tmp_path], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_browser_opens_it_without_errors(runs: list[Path], tmp_path: Path) -> None:
    write_report([*runs, write_study(tmp_path / "study")], tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run(
        ["chromium", *options, profile, "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "What was run" in done.stdout
    assert ":CONSOLE" not in done.stderr, done.stderr
