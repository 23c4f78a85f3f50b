"""The report: what it says is what was read, it needs no network, and a browser opens it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from imitkd.cli.main import main
from imitkd.report import write_report
from imitkd.report.charts import Chart, Line
from imitkd.report.figures import Palette, exposure, learning_curves, quality_and_speed
from imitkd.report.progress import progress
from imitkd.report.reading import read_run, read_study
from imitkd.report.records import of_study as records_of_study
from imitkd.report.tables import run_table, study_tables
from imitkd.report.trainings import of_runs, of_study
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


def write_analysis(folder: Path, **said: Any) -> None:
    """What `imitkd analyse` writes, with these values besides."""
    bins = [{"low": 1, "high": 5, "sentences": 10, "student": 20.0, "teacher": 30.0}] * 2
    points = [{"position": t, "sentences": 10, "kl": 0.1 * t} for t in range(4)]
    found = {
        "metric": "bleu",
        "by_length": bins,
        "kl_reference_prefixes": points,
        "kl_own_prefixes": points,
        "teacher_finishes": [{"share": s / 2, "quality": 30.0 - s} for s in range(3)],
    }
    where = {"corpus": "small", "split": "test", "sentences": 20}
    teacher = {"name": "teacher", "revision": "sha256:t", "beam": 1}
    (folder / "analysis.json").write_text(json.dumps(found | where | {"teacher": teacher} | said))


def write_curve(folder: Path, bleus: list[float]) -> None:
    """The validations of a cell."""
    points = [{"step": 5 * n + 5, "bleu": bleu, "chrf": 50.0} for n, bleu in enumerate(bleus)]
    (folder / "curve.json").write_text(json.dumps({"metric": "bleu", "points": points}))


def write_cell(study: Path, row: dict[str, Any]) -> Path:
    """A cell with the texts and facts behind a row; its directory."""
    method, student, seed = (row[key] for key in ("method", "student", "seed"))
    cell = study / "cells" / (f"{student}/{method}/seed{seed}" if student else method)
    cell.mkdir(parents=True)
    details: dict[str, Any] = {"name": f"{method}-{seed}", "machine": "eight cores"}
    if student:
        optimiser = {"steps": 600, "learning_rate": 0.001}
        details["config"] = {"method": method, "seed": seed, "optimiser": optimiser}
    facts = {"method": method, "student": student, "seed": seed, "details": details}
    (cell / "cell.json").write_text(json.dumps(facts))
    text = f"the same\n{method} alone says so\nthe end\n"
    (cell / "test2016.greedy.txt").write_text(text)
    return cell


def write_study(path: Path, corpus: Path | None = None) -> Path:
    """Results as a study writes them, with the files of three cells."""
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
            "delta_vs_vanilla": bleu - 30.0 if method == "imitkd-full" else None,
            "p_vs_vanilla": 1 / 1001 if method == "imitkd-full" else None,
            "delta_vs_seqkd": None,
            "p_vs_seqkd": None,
            "parameters": 1_234_567,
            "greedy_sentences_per_s": 10 * bleu,
            "train_seconds": 3600.0 if of_student else None,
        }
        rows.append(row)
        write_cell(path, row)
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
    for number in ("36.00", "34.50–37.50", "+6.00", "0.001", "1,234,567"):
        assert number in page.text, number
    assert page.elements.count("svg") == 8
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
    assert not {"p vs SeqKD", "Δ vs SeqKD"} & set(table.columns)  # no row has one
    shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    best = shown[2]
    assert (best["Δ vs vanilla"], best["p vs vanilla"]) == ("+6.00", "0.001")
    # Greedy, of the teacher's 41 with a beam.
    assert [row["% of teacher"] for row in shown] == ["", f"{3000 / 41:.1f}", f"{3600 / 41:.1f}"]
    assert table.rows[0][:5] == ["teacher", "", "", "40.00", "38.50–41.50"]
    assert (2, 3) in table.best and not any(row == 0 for row, _ in table.best)
    table = run_table([read_run(path) for path in runs])
    assert table.columns == ["run", "method", "steps", "BLEU", "sources cut", "training s"]
    assert table.rows[0] == ["plain", "vanilla", "10", "12.00", "7", "12"]


def test_the_best_is_told_of_each_student(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    results = json.loads((path / "results.json").read_text())
    for row in results["rows"][1:]:
        results["rows"].append(row | {"student": "wide", "bleu_greedy": row["bleu_greedy"] + 10})
    # Rows of a student that came later stand with the others of it.
    results["rows"].append(results["rows"][1] | {"method": "seqkd", "bleu_greedy": 31.0})
    (path / "results.json").write_text(json.dumps(results))
    (table,) = study_tables(read_study(path), "test2016")
    assert [row[1] for row in table.rows] == ["", "sru", "sru", "sru", "wide", "wide"]
    column = table.columns.index("BLEU greedy")
    bold = {table.rows[r][column] for r, c in table.best if c == column}
    assert bold == {"36.00", "46.00"}


def test_how_far_a_study_is(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    results = json.loads((path / "results.json").read_text())
    assert progress(read_study(path)) == ""  # of results that do not say
    for unfinished, line in (
        ([], "small: all 2 cells are finished."),
        (
            ["sru/seqkd/seed1", "sru/vanilla/seed2", "sru/seqkd/seed2", "wide/imitkd/seed1"],
            "small: 2 of 6 cells are finished. Missing for sru: seqkd, vanilla (seed 2); "
            "for wide: imitkd.",
        ),
    ):
        (path / "results.json").write_text(json.dumps(results | {"unfinished": unfinished}))
        assert progress(read_study(path)) == line
        write_report([path], tmp_path / "report.html")
        assert line in Page(tmp_path / "report.html").text


def test_a_study_is_drawn_as_runs_are(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    results = json.loads((path / "results.json").read_text())
    second = [row | {"seed": 2} for row in results["rows"] if row["student"]]
    other = [row | {"student": "wide", "seed": 1} for row in second]
    for row in second + other:
        write_cell(path, row)
    results["rows"] += second + other
    (path / "results.json").write_text(json.dumps(results))
    cells = path / "cells"
    write_curve(cells / "sru/vanilla/seed1", [10.0, 12.0])
    write_curve(cells / "sru/vanilla/seed2", [1.0, 2.0])
    write_curve(cells / "sru/imitkd-full/seed2", [11.0, 13.0])  # its first seed has none
    write_analysis(cells / "sru/imitkd-full/seed2")
    write_curve(cells / "wide/vanilla/seed1", [20.0, 22.0])
    sru, wide = of_study(read_study(path))
    palette = Palette()
    (chart,) = learning_curves(sru, palette)
    assert chart.title == "Validation BLEU: small, sru"
    assert [(line.label, list(line.y)) for line in chart.lines] == [
        ("vanilla", [10.0, 12.0]),
        ("imitkd-full", [11.0, 13.0]),
    ]
    (chart,) = learning_curves(wide, palette)
    assert [(line.label, list(line.y)) for line in chart.lines] == [("vanilla", [20.0, 22.0])]
    assert len(exposure(sru, palette)) == 4 and exposure(wide, palette) == []
    write_report([path], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "Validation BLEU: small, wide" in text and "Exposure bias: small, sru" in text
    assert "Exposure bias: small, wide" not in text


def test_only_analyses_of_the_same_sentences_are_drawn_together(
    runs: list[Path], tmp_path: Path, plain_config: dict[str, Any]
) -> None:
    write_analysis(runs[0])
    third = write_run(tmp_path / "c", plain_config, "third", [1.0])

    def lengths() -> list[set[str]]:
        found = exposure(of_runs([read_run(path) for path in [*runs, third]]), Palette())
        return [{ln.label for ln in c.lines} for c in found if c.title == "BLEU by length"]

    write_analysis(third)
    assert lengths() == [{"plain", "other", "third", "teacher"}]
    shorter = [{"low": 1, "high": 9, "sentences": 10, "student": 20.0, "teacher": 35.0}]
    strange: list[dict[str, Any]] = [
        {"split": "validation"},
        {"corpus": "large"},
        {"teacher": {"name": "teacher", "revision": "sha256:u", "beam": 1}},
        {"by_length": shorter},
    ]
    for said in strange:
        write_analysis(third, **said)
        assert lengths() == [{"plain", "other", "teacher"}, {"third", "teacher"}], said


@pytest.mark.parametrize("scattered", [False, True])
def test_twelve_methods_are_told_apart(scattered: bool) -> None:
    palette = Palette()
    lines = [Line(name, palette.of(name), [1, 2], [n, n]) for n, name in enumerate("abcdefghijkl")]
    if scattered:  # there the shape is the student's
        lines = [replace(line, shape=0) for line in lines]
    chart = Chart("title", "x", "y", lines, scattered=scattered)
    assert len({(colour, kind) for _, colour, kind in chart.legend}) == 12
    # The legend's marks are the page's; what the chart itself draws is told apart as well.
    element, ink = ("use", "fill|stroke") if scattered else ("path", "stroke|stroke-dasharray")
    styles = re.findall(rf'<{element} [^>]*style="([^"]*var\(--s\d\)[^"]*)"', chart.svg())
    drawn = {tuple(re.findall(rf"(?:^|; )({ink}): ([^;]+)", style)) for style in styles}
    assert len(drawn) == 12, drawn


def test_what_a_study_ran(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    (results, _), (title, teacher), (_, trained) = records_of_study(read_study(path))
    assert results == f"small ({path})" and title == "small: teacher"
    assert "name: teacher-None" in teacher and "machine: eight cores" in teacher
    shared, first, *_ = trained.split("\n\n  ")[1:]
    assert "config.optimiser.learning_rate: 0.001" in shared and "machine: eight cores" in shared
    assert "config.method: vanilla" in first and "optimiser" not in first


def test_a_cell_that_the_study_dropped_is_not_shown(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    write_cell(path, {"method": "tried-once", "student": "sru", "seed": 1})
    write_report([path], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "imitkd-full alone says so" in text and "tried-once" not in text


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
    more = {"rouge1": 21.5, "rouge1_beam5": 43.0, "metric": 22.5}
    results["rows"] = [row | more for row in results["rows"]]
    (path / "results.json").write_text(json.dumps(results))
    study = read_study(path)
    (table,) = study_tables(study, "test2016")
    assert f"95 % ({name})" in table.columns and "ROUGE-1" in table.columns
    # Its share of the teacher's best is of that metric too, where the teacher's is known.
    share = {"bleu": f"{3000 / 41:.1f}", "rouge1": "50.0"}.get(metric)
    assert ("% of teacher" in table.columns) == (share is not None)
    if share:
        assert table.rows[1][table.columns.index("% of teacher")] == share
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


def test_a_damaged_curve_is_one_line(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study")
    (path / "cells/sru/vanilla/seed1/curve.json").write_text('{"metric": "bleu"}')
    with pytest.raises(UserError, match=r"curve.json has no 'points'; remove it"):
        write_report([path], tmp_path / "report.html")


# The page inside another one that is as wide as a telephone, so as wide as browsers make no window;
# what the outer one sees of it becomes the title.
NARROW = """<!DOCTYPE html><title>nothing</title>
<iframe style="width: 420px; height: 800px; border: 0" srcdoc="PAGE"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const tables = [...page.querySelectorAll(".wide")].filter((e) => e.offsetParent);
  for (const table of tables) table.scrollLeft = table.scrollWidth;
  document.title = JSON.stringify({
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    scrolled: tables.map((table) => table.scrollLeft),
    methods: tables.map(
      (table) => table.querySelector("td").getBoundingClientRect().left
        - table.getBoundingClientRect().left),
  });
};
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
class TestBrowser:
    def opened(self, file: Path) -> str:
        """What a browser makes of a file; it has nothing to complain of."""
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--enable-logging=stderr", "--v=0"]
        profile = f"--user-data-dir={file.parent / 'profile'}"
        done = subprocess.run(
            ["chromium", *options, profile, "--dump-dom", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert ":CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    def test_opens_it_without_errors(self, runs: list[Path], tmp_path: Path) -> None:
        write_report([*runs, write_study(tmp_path / "study")], tmp_path / "report.html")
        assert "What was run" in self.opened(tmp_path / "report.html")

    def test_a_narrow_page_is_not_scrolled_sideways(self, runs: list[Path], tmp_path: Path) -> None:
        study = write_study(tmp_path / "study" / ("a-long-directory-" * 5))
        write_report([*runs, study], tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text("utf-8")
        (tmp_path / "narrow.html").write_text(NARROW.replace("PAGE", escape(page)), "utf-8")
        (said,) = re.findall("<title>(.*?)</title>", self.opened(tmp_path / "narrow.html"))[:1]
        seen = json.loads(unescape(said))
        assert seen["needed"] <= seen["width"] <= 420
        # Tables are scrolled within themselves, and the method stays in sight.
        assert max(seen["scrolled"]) > 100 and set(seen["methods"]) == {0}
