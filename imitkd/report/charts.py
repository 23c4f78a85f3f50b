"""Charts as inline SVG whose colours are the page's: they follow its light and dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seq2seq.errors import UserError

# Drawn in these, then replaced by the page's variables.
_INK, _GRID, _PAPER = "#0a0a01", "#0a0a02", "#0a0a03"
_MARKERS = "osD^vPX*"
SHAPES = "●■◆▲▼✚✖★"  # the same, in words
SERIES = 8
# The last one is grey, and no student's.
TEACHER = SERIES - 1
# Inches at 72 to the inch: about the width of a column of the page, so that text is not scaled.
_SIZE = (5.4, 3.4)


@dataclass(frozen=True)
class Line:
    """Points of one series.

    Attributes:
        series: number of its colour.
        shape: number of its marker; that of its colour by default.
        dashed: a second kind of line of the same series.
    """

    label: str
    series: int
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    shape: int | None = None


@dataclass(frozen=True)
class Chart:
    """One figure of the page.

    Attributes:
        note: one sentence below it.
        ticks: labels of x = 0, 1, ... where x counts classes.
        scattered: points, not lines.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    note: str = ""
    ticks: list[str] = field(default_factory=list)
    scattered: bool = False

    @property
    def legend(self) -> list[tuple[str, int]]:
        """Labels and numbers of the series, each once."""
        return list(dict.fromkeys((line.label, line.series) for line in self.lines))

    def svg(self) -> str:
        """The chart as an ``<svg>`` element.

        Raises:
            UserError: matplotlib is not installed.
        """
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UserError(
                f"a report needs matplotlib ({error}); pip install 'imitkd[report]'"
            ) from error
        style = {
            "svg.fonttype": "none",
            "svg.hashsalt": self.title,
            "text.color": _INK,
            "font.size": 10,
        }
        with mpl.rc_context(style):
            figure = Figure(figsize=_SIZE, layout="constrained")
            self._draw(figure.subplots())
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return _inline(file.getvalue(), self.title)

    def _draw(self, axes: Any) -> None:
        for line in self.lines:
            colour = _colour(line.series)
            axes.plot(
                line.x,
                line.y,
                color=colour,
                linestyle="none" if self.scattered else ("--" if line.dashed else "-"),
                linewidth=1.8,
                marker=self._marker(line),
                markersize=8 if self.scattered else 4,
                markerfacecolor=_PAPER if line.dashed else colour,
            )
        axes.set_xlabel(self.x_label, color=_INK)
        axes.set_ylabel(self.y_label, color=_INK)
        if self.ticks:
            axes.set_xticks(range(len(self.ticks)), self.ticks)
        axes.tick_params(which="both", colors=_INK, length=3)
        axes.grid(True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_color(_GRID)
            spine.set_visible(side in ("left", "bottom"))

    def _marker(self, line: Line) -> str | None:
        shape = line.series if line.shape is None else line.shape
        return _MARKERS[shape % len(_MARKERS)] if self.scattered or len(line.x) <= 30 else None


def _colour(series: int) -> str:
    return f"#0a0b{series % SERIES:02x}"


def _inline(text: str, title: str) -> str:
    """Without prologue and size, in the colours of the page, with a name for who cannot see it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for drawn, variable in ((_INK, "ink"), (_GRID, "grid"), (_PAPER, "paper")):
        text = text.replace(drawn, f"var(--{variable})")
    text = re.sub(r"#0a0b(\d\d)", lambda found: f"var(--s{int(found[1])})", text)
    name = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
