"""The page itself: what was read, laid out by a template, as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imitkd
from imitkd.report import examples, figures, records, tables, trainings
from imitkd.report.charts import COLOURS, Chart
from imitkd.report.examples import Comparison
from imitkd.report.figures import Palette
from imitkd.report.progress import progress
from imitkd.report.reading import Run, Study, read_any
from imitkd.report.tables import Table
from seq2seq.checkpoint import atomic_file
from seq2seq.errors import UserError

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """A heading with what belongs below it, ``notes`` first."""

    title: str
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    records: list[tuple[str, str]] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.tables or self.charts or self.comparisons or self.records)


def write_report(paths: Sequence[Path], output: Path) -> None:
    """Write one HTML page of runs and studies; it needs nothing but itself.

    Raises:
        UserError: a path is neither run nor study, a file of it is broken, a package is missing,
            or the disk is not writable.
    """
    page = render([read_any(path) for path in paths])
    with atomic_file(output) as file:
        file.write_text(page, "utf-8")


def render(found: Sequence[Run | Study]) -> str:
    """The page as text.

    Raises:
        UserError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(f"a report needs jinja2 ({error}); pip install 'imitkd[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    runs = [one for one in found if isinstance(one, Run)]
    studies = [one for one in found if isinstance(one, Study)]
    return environment.get_template(_TEMPLATE).render(
        title=" · ".join(dict.fromkeys(one.name for one in found)),
        sections=[section for section in _sections(runs, studies) if section.filled],
        colours=COLOURS,
        version=imitkd.__version__,
    )


def _sections(runs: Sequence[Run], studies: Sequence[Study]) -> list[Section]:
    palette = Palette()
    splits = [(study, test) for study in studies for test in study.tests]
    results = [table for study, test in splits for table in tables.study_tables(study, test)]
    if runs:
        results.append(tables.run_table(runs))
        if evaluations := tables.evaluation_table(runs):
            results.append(evaluations)
    speed = [figures.quality_and_speed(study, test, palette) for study, test in splits]
    speed.append(figures.evaluated_speed(runs, palette))
    groups = [trainings.of_runs(runs)]
    groups += [group for study in studies for group in trainings.of_study(study)]
    return [
        Section("Results", notes=list(map(progress, studies)), tables=results),
        Section("Quality against speed", charts=[chart for chart in speed if chart.lines]),
        Section(
            "Learning curves",
            charts=[chart for group in groups for chart in figures.learning_curves(group, palette)],
        ),
        *(
            Section(
                group.titled("Exposure bias"),
                notes=[group.note],
                charts=figures.exposure(group, palette),
            )
            for group in groups
        ),
        *(
            Section(f"Where methods differ: {study.name}, {test}", comparisons=chosen)
            for study, test in splits
            if (chosen := examples.of_study(study, test))
        ),
        Section("Validation sentences", comparisons=examples.of_runs(runs)),
        Section(
            "What was run",
            records=[
                *map(records.of_run, runs),
                *(record for study in studies for record in records.of_study(study)),
            ],
        ),
    ]
