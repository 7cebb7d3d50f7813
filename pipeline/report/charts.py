"""The geometry of the page's charts; `templates/charts.html.j2` draws them as SVG.

Positions along x are percentages of the plot's width, and the labels stand in margins of fixed width around it: a chart
takes the width of its column on any screen, while its letters keep their size. Positions along y are pixels.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from configs.text import shorten
from pipeline.report.scales import format_ticks, padded, scale_limit, significant, thin, ticks

_CHARACTER_PIXELS = 6.9
"""Width of a digit of a label, whose letters have 12 pixels; a little too large."""

_MAX_LABEL_CHARACTERS = 16
_MAX_VALUE = 1e100
"""Larger values are left out: the width of a scale that held them would be infinite."""

_ROW_PIXELS = 21
_HEAD_PIXELS = 24


class Reference(NamedTuple):
    """A labelled line to compare values with."""

    label: str
    value: float


class Mark(NamedTuple):
    """Something that happened at a place along x."""

    kind: Literal["restart", "rollback"]
    x: float
    text: str


class Bar(NamedTuple):
    """One bar: its label, its value, the number written beside it, and the number in a second column."""

    label: str
    value: float
    text: str
    note: str = ""


@dataclass(frozen=True)
class Label:
    """A text at a place; `line` is where the line is that it names, and None if it has none."""

    text: str
    at: float
    line: float | None = None


@dataclass(frozen=True)
class PlacedMark:
    """A mark at a percentage of the width."""

    kind: str
    at: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """A line through points. Margins and heights are in pixels."""

    title: str
    x_label: str
    y_label: str
    height: int
    left: int
    right: int
    top: int = 28
    bottom: int = 44
    line: str = ""
    """The points as SVG takes them, x in percent; empty if nothing was recorded."""

    second: str = ""
    """The points of a second line; empty if there is none."""

    second_label: str = ""

    x_ticks: tuple[Label, ...] = ()
    y_ticks: tuple[Label, ...] = ()
    references: tuple[Label, ...] = ()
    marks: tuple[PlacedMark, ...] = ()
    num_marks: Mapping[str, int] = field(default_factory=Counter)
    """How many there were of each kind; marks that would stand on each other are drawn as one."""

    clipped: tuple[Label, ...] = ()
    """Where the line runs above the scale, and how high: one for each run of such points."""

    num_clipped: int = 0
    highest: str = ""
    """The highest of the points above the scale, and where it is."""

    end: Label | None = None
    """The last value, written at the line's end: `at` is its height, `line` its place along x."""


@dataclass(frozen=True)
class BarRow:
    """One bar of a chart. `width` is in percent."""

    label: str
    title: str
    width: float
    text: str
    note: str
    top: int


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars. Margins and heights are in pixels."""

    title: str
    rows: tuple[BarRow, ...]
    heads: tuple[Label, ...]
    """Heads of the columns of numbers; `at` is their distance from the plot's right edge."""

    reference: Label | None
    """`at` is its place along x, in percent."""

    height: int
    left: int
    right: int
    text_right: float
    note_right: float
    top: int
    bottom: int = 2


@dataclass(frozen=True)
class _Scales:
    """Where a value stands in a plot: along x in percent, along y in pixels from the top."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int

    def across(self, x: float) -> float:
        return 100 * min(1.0, max(0.0, (x - self.x_low) / (self.x_high - self.x_low)))

    def down(self, y: float) -> float:
        return self.height * (self.y_high - y) / (self.y_high - self.y_low)

    def along(self, line: Sequence[tuple[float, float]]) -> str:
        """Return the points of a line as SVG takes them."""
        return " ".join(f"{self.across(x):.3f},{self.down(y):.2f}" for x, y in line)


def line_chart(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    references: Sequence[Reference] = (),
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
    height: int = 220,
    second: Sequence[tuple[float, float]] = (),
    second_label: str = "",
) -> LineChart:
    """Lay out a line through points in order of x, and a `second` one on the same scales, with horizontal references.

    Points that are not finite, or beyond 1e100, are left out. A few points far above all others do not rule the scale:
    the line is cut there (see `scale_limit`). Of more than 1,200 points the means of neighbours are drawn.
    """
    finite, others = _drawable(points), _drawable(second)
    if not finite:
        return LineChart(title, x_label, y_label, height=20, left=0, right=0, top=0, bottom=0)
    ys = [y for _, y in finite]
    held = [*(reference.value for reference in references), *(y for _, y in others)]
    y_low = min([*ys, *held, 0.0] if from_zero else [*ys, *held])
    y_values = ticks(*padded(y_low, scale_limit(ys, held)), outward=True)
    drawn = thin([(x, min(y, y_values[-1])) for x, y in finite])
    x_low, x_high = padded(finite[0][0], finite[-1][0])
    end = significant(finite[-1][1])
    scales = _Scales(x_low, x_high, y_values[0], y_values[-1], height)
    across, down = scales.across, scales.down
    return LineChart(
        title,
        x_label,
        y_label,
        height,
        second=scales.along(thin(others)) if others else "",
        second_label=f"{second_label}, {significant(others[-1][1])} at the end" if others else "",
        left=_width(format_ticks(y_values)) + 10,
        right=max(_width([end]) + 14, 24),
        line=scales.along(drawn),
        x_ticks=_place_ticks(ticks(x_low, x_high), across),
        y_ticks=_place_ticks(y_values, down),
        references=_place_references(references, [down(reference.value) for reference in references]),
        marks=_place_marks([PlacedMark(mark.kind, across(mark.x), mark.text) for mark in marks]),
        num_marks=Counter(mark.kind for mark in marks),
        clipped=tuple(Label(_point(x, y), across(x)) for x, y in _runs_above(finite, y_values[-1])),
        num_clipped=sum(y > y_values[-1] for _, y in finite),
        highest=_point(*max(finite, key=lambda point: point[1])),
        end=Label(end, down(drawn[-1][1]), across(drawn[-1][0])),
    )


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    heads: tuple[str, str] = ("", ""),
    maximum: float | None = None,
    reference: Reference | None = None,
) -> BarChart:
    """Lay out horizontal bars from zero, in the order given, with an optional vertical reference line.

    `heads` name the columns of `text` and `note`. `maximum` is the value of a full bar, so that charts can share it.
    """
    values = [bar.value for bar in bars] + ([reference.value] if reference else [])
    full = maximum or max(values, default=0.0) or 1.0
    text_right = _width([bar.text for bar in bars] + [heads[0]]) + 10
    has_notes = any(bar.note for bar in bars)
    note_right = text_right + _width([bar.note for bar in bars] + [heads[1]]) + (14 if has_notes else 0)
    rows = tuple(
        BarRow(
            label=shorten(bar.label, _MAX_LABEL_CHARACTERS),
            title=" · ".join(part for part in (bar.label, bar.text, bar.note) if part),
            width=min(100.0, max(0.0, 100 * bar.value / full)),
            text=bar.text,
            note=bar.note,
            top=number * _ROW_PIXELS,
        )
        for number, bar in enumerate(bars)
    )
    columns = zip(heads, (text_right, note_right), strict=True)
    return BarChart(
        title=title,
        rows=rows,
        heads=tuple(Label(head, at) for head, at in columns if head),
        reference=Label(_named(reference), 100 * reference.value / full) if reference else None,
        height=_ROW_PIXELS * len(bars),
        left=_width([row.label for row in rows]) + 8,
        right=note_right,
        text_right=text_right,
        note_right=note_right,
        top=_HEAD_PIXELS if reference or any(heads) else 4,
    )


def _drawable(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points without those that are not finite, or too large for a scale."""
    return [(x, y) for x, y in points if abs(x) < _MAX_VALUE and abs(y) < _MAX_VALUE]


def _point(x: float, y: float) -> str:
    return f"{significant(y)} at {x:,.0f}"


def _runs_above(points: Sequence[tuple[float, float]], limit: float) -> list[tuple[float, float]]:
    """Return the highest point of each run of points above the limit.

    Points nearer than a fiftieth of the width are one run: their marks would cover each other.
    """
    near = (points[-1][0] - points[0][0]) / 50
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if point[1] > limit:
            if runs and point[0] - runs[-1][-1][0] <= near:
                runs[-1].append(point)
            else:
                runs.append([point])
    return [max(run, key=lambda point: point[1]) for run in runs]


def _place_ticks(values: Sequence[float], place: Callable[[float], float]) -> tuple[Label, ...]:
    return tuple(Label(text, place(value)) for text, value in zip(format_ticks(values), values, strict=True))


def _place_marks(marks: Sequence[PlacedMark]) -> tuple[PlacedMark, ...]:
    """Keep one mark of a kind in each four-hundredth of the width, so that a page of many restarts stays small."""
    return tuple({(mark.kind, round(4 * mark.at)): mark for mark in marks}.values())


def _place_references(references: Sequence[Reference], tops: Sequence[float]) -> tuple[Label, ...]:
    # A label stands above its line, unless another line runs there.
    places = [top + 15 if any(0 < top - other < 20 for other in tops) else top - 6 for top in tops]
    return tuple(Label(_named(r), at, top) for r, at, top in zip(references, places, tops, strict=True))


def _named(reference: Reference) -> str:
    return f"{reference.label} {significant(reference.value)}"


def _width(texts: Sequence[str]) -> int:
    return math.ceil(max((len(text) for text in texts), default=0) * _CHARACTER_PIXELS)
