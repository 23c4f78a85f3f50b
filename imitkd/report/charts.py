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
# The last one of each is the teacher's; its colour is grey.
_MARKERS = "osD^vPX*"
SHAPES = "●■◆▲▼✚✖★"  # the same, in words
COLOURS = 8
TEACHER = -1
# What tells series of one colour apart: lines, and how far points are filled.
_LINES = ("-", "--", ":")
_FILLS = ("full", "none", "left")
# Points of a line that markers still leave legible.
_MARKED = 20
# Inches at 72 to the inch: about the width of a column of the page, so that text is not scaled.
_SIZE = (5.4, 3.4)


@dataclass(frozen=True)
class Line:
    """Points of one series.

    Attributes:
        series: its number, which colour, line and filling follow from; or ``TEACHER``.
        shape: number of its marker; the series' own by default.
    """

    label: str
    series: int
    x: Sequence[float]
    y: Sequence[float]
    shape: int | None = None


@dataclass(frozen=True)
class Chart:
    """One figure of the page.

    Attributes:
        note: one sentence below it.
        ticks: labels of x = 0, 1, ... where x counts classes.
        scattered: points, not lines.
        y_range: of the axis, for charts that are to be compared; by default what the lines need.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    note: str = ""
    ticks: list[str] = field(default_factory=list)
    scattered: bool = False
    y_range: tuple[float, float] | None = None

    @property
    def legend(self) -> list[tuple[str, int, int]]:
        """Label, colour and kind (of line or filling) of the series, each once."""
        series = dict.fromkeys((line.label, line.series) for line in self.lines)
        return [(label, place(number), kind(number)) for label, number in series]

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
            drawn = _drawn(place(line.series))
            axes.plot(
                line.x,
                line.y,
                color=drawn,
                linestyle="none" if self.scattered else _LINES[kind(line.series)],
                linewidth=1.8,
                marker=self._marker(line),
                markersize=8 if self.scattered else 4,
                fillstyle=_FILLS[kind(line.series)],
                markerfacecoloralt=_PAPER,
            )
        axes.set_xlabel(self.x_label, color=_INK)
        axes.set_ylabel(self.y_label, color=_INK)
        if self.ticks:
            axes.set_xticks(range(len(self.ticks)), self.ticks)
        if self.y_range:
            axes.set_ylim(*self.y_range)
        axes.tick_params(which="both", colors=_INK, length=3)
        axes.grid(True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_color(_GRID)
            spine.set_visible(side in ("left", "bottom"))

    def _marker(self, line: Line) -> str | None:
        if not self.scattered and len(line.x) > _MARKED:
            return None
        return _MARKERS[place(line.series if line.shape is None else line.shape)]


def place(number: int) -> int:
    """Which of the colours or shapes a number has: the last is the teacher's, the others recur."""
    return COLOURS - 1 if number == TEACHER else number % (COLOURS - 1)


def kind(series: int) -> int:
    """Which kind of line or filling a series has: another one each time that colours recur."""
    return 0 if series == TEACHER else series // (COLOURS - 1) % len(_LINES)


def _drawn(colour: int) -> str:
    return f"#0a0b{colour:02x}"


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
