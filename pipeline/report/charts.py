"""The geometry of the page's charts; `templates/charts.html.j2` draws them as SVG.

Positions along x are percentages of the plot's width, and the labels stand in margins of fixed width around it: a chart
takes the width of its column on any screen, while its letters keep their size. Positions along y are pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from configs.text import shorten

_CHARACTER_PIXELS = 6.9
"""Width of a digit of a label, whose letters have 12 pixels; a little too large."""

_MAX_LABEL_CHARACTERS = 16
_MAX_POINTS = 1200
_MIN_POINTS_TO_CLIP = 10
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

    x_ticks: tuple[Label, ...] = ()
    y_ticks: tuple[Label, ...] = ()
    references: tuple[Label, ...] = ()
    marks: tuple[PlacedMark, ...] = ()
    num_restarts: int = 0
    num_rollbacks: int = 0
    """How many there were; marks that would stand on each other are drawn as one."""

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
) -> LineChart:
    """Lay out a line through points in order of x, with horizontal reference lines.

    Points that are not finite, or beyond 1e100, are left out. A few points far above all others do not rule the scale:
    the line is cut there (see `scale_limit`). Of more than 1,200 points the means of neighbours are drawn.
    """
    finite = [(x, y) for x, y in points if abs(x) < _MAX_VALUE and abs(y) < _MAX_VALUE]  # neither NaN nor infinite
    if not finite:
        return LineChart(title, x_label, y_label, height=20, left=0, right=0, top=0, bottom=0)
    ys = [y for _, y in finite] + [reference.value for reference in references]
    y_high = scale_limit([y for _, y in finite], [reference.value for reference in references])
    y_values = ticks(*padded(min(0.0, *ys) if from_zero else min(ys), y_high), outward=True)
    drawn = thin([(x, min(y, y_values[-1])) for x, y in finite])
    x_low, x_high = padded(finite[0][0], finite[-1][0])
    labels, end = format_ticks(y_values), significant(finite[-1][1])

    def across(x: float) -> float:
        return 100 * min(1.0, max(0.0, (x - x_low) / (x_high - x_low)))

    def down(y: float) -> float:
        return height * (y_values[-1] - y) / (y_values[-1] - y_values[0])

    x_values = ticks(x_low, x_high)
    return LineChart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        height=height,
        left=_width(labels) + 10,
        right=max(_width([end]) + 14, 24),
        line=" ".join(f"{across(x):.3f},{down(y):.2f}" for x, y in drawn),
        x_ticks=tuple(Label(text, across(x)) for text, x in zip(format_ticks(x_values), x_values, strict=True)),
        y_ticks=tuple(Label(text, down(y)) for text, y in zip(labels, y_values, strict=True)),
        references=_place_references(references, [down(reference.value) for reference in references]),
        marks=_place_marks([PlacedMark(mark.kind, across(mark.x), mark.text) for mark in marks]),
        num_restarts=sum(mark.kind == "restart" for mark in marks),
        num_rollbacks=sum(mark.kind == "rollback" for mark in marks),
        clipped=tuple(Label(_point(x, y), across(x)) for x, y in _runs_above(finite, y_values[-1])),
        num_clipped=sum(y > y_values[-1] for _, y in finite),
        highest=_point(*max(finite, key=lambda point: point[1])),
        end=Label(end, down(drawn[-1][1]), across(drawn[-1][0])),
    )


def scale_limit(values: Sequence[float], references: Sequence[float] = ()) -> float:
    """Return the largest value that a scale has to hold: the maximum, unless a few spikes would rule it.

    Up to a twentieth of the values, at least one, are spikes if the smallest of them is so far above the next that
    without them all others take less than half of the range. References are always held; fewer than ten values have no
    spikes.
    """
    ordered = sorted(values)
    high = ordered[-1]
    if len(ordered) >= _MIN_POINTS_TO_CLIP:
        for num_spikes in range(max(1, len(ordered) // 20), 0, -1):
            most, spike = ordered[-num_spikes - 1], ordered[-num_spikes]
            if spike - ordered[0] > 2 * (most - ordered[0]):
                high = most
                break
    return max(high, *references) if references else high


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


def thin(points: Sequence[tuple[float, float]], limit: int = _MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `limit` points: means of equally many neighbours, of the last ones perhaps fewer."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return list(points)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, *, outward: bool = False) -> list[float]:
    """Return about five round numbers, evenly spaced: those within low..high, or those that enclose it (`outward`).

    `low` must be less than `high`.
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    slack = -1e-9 if outward else 1e-9
    first, last = low / step - slack, high / step + slack
    ends = (math.floor(first), math.ceil(last)) if outward else (math.ceil(first), math.floor(last))
    return [i * step for i in range(ends[0], ends[1] + 1)]


def format_ticks(values: Sequence[float]) -> list[str]:
    """Write the numbers with the fewest decimals, the same for all, that tell them apart."""
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    decimals = next((d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d), 6)
    return [f"{value:,.{decimals}f}" if decimals < 6 else f"{value:g}" for value in values]


def padded(low: float, high: float) -> tuple[float, float]:
    """Return the range, widened if it has no width."""
    margin = abs(low) * 0.1 or 1.0
    return (low, high) if low < high else (low - margin, high + margin)


def significant(value: float) -> str:
    """Write a number with three significant digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


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
