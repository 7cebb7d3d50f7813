"""Charts as inline SVG, and their scales: which points to draw, which round values to mark, how to write them.

Positions are percentages of the plot's width, and the labels stand in margins of fixed width around it: a chart takes
the width of its column on any screen, while its letters keep their size. Colours come from the page's style sheet, by
class.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from configs.text import shorten
from pipeline.report.markup import Html, element

_CHARACTER_PIXELS = 6.9
"""Width of a digit of a label, whose letters have 12 pixels; a little too large."""

_MAX_LABEL_CHARACTERS = 16
_ROW_PIXELS = 21
_HEAD_PIXELS = 24


class Reference(NamedTuple):
    """A labelled line to compare values with."""

    label: str
    value: float


class Bar(NamedTuple):
    """One bar: its label, its value, the number written beside it, and the number in a second column."""

    label: str
    value: float
    text: str
    note: str = ""


def line_chart(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    references: Sequence[Reference] = (),
    from_zero: bool = False,
    height: int = 220,
) -> Html:
    """Draw a line through points in order of x, with horizontal reference lines. Points not finite are left out.

    Of more than 1,200 points the means of neighbours are drawn. The last value is written at the line's end.
    """
    drawn = thin([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
    if not drawn:
        return _empty(title)
    ys = [y for _, y in drawn] + [reference.value for reference in references]
    x_low, x_high = padded(drawn[0][0], drawn[-1][0])
    y_ticks = ticks(*padded(min(0.0, *ys) if from_zero else min(ys), max(ys)), outward=True)
    y_low, y_high = y_ticks[0], y_ticks[-1]
    places = [(100 * (x - x_low) / (x_high - x_low), height * (y_high - y) / (y_high - y_low)) for x, y in drawn]
    tops = [height * (y_high - reference.value) / (y_high - y_low) for reference in references]
    labels, end = format_ticks(y_ticks), significant(drawn[-1][1])
    parts = [
        *_y_grid(y_ticks, labels, y_low=y_low, y_high=y_high, height=height),
        *_x_axis(ticks(x_low, x_high), x_low=x_low, x_high=x_high, height=height, label=x_label),
        *[_reference(reference, top, tops) for reference, top in zip(references, tops, strict=True)],
        _line(places, height),
        element("circle", cx=_percent(places[-1][0]), cy=_pixels(places[-1][1]), r="3.5", class_="dot"),
        element("text", end, x="100%", dx="8", y=_pixels(places[-1][1] + 4), class_="value"),
    ]
    left, right = _width(labels) + 10, max(_width([end]) + 14, 24)
    parts.append(element("text", y_label, x=_pixels(-left), y="-12", class_="axis"))
    return _chart(title, parts, left=left, right=right, top=28, height=height, bottom=44)


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    heads: tuple[str, str] = ("", ""),
    maximum: float | None = None,
    reference: Reference | None = None,
) -> Html:
    """Draw horizontal bars from zero, in the order given, with an optional vertical reference line.

    `heads` name the columns of `text` and `note`. `maximum` is the value of a full bar, so that charts can share it.
    """
    if not bars:
        return _empty(title)
    full = maximum or max([bar.value for bar in bars] + ([reference.value] if reference else [])) or 1.0
    text_width = _width([bar.text for bar in bars] + [heads[0]]) + 10
    note_width = _width([bar.note for bar in bars] + [heads[1]]) + (14 if any(bar.note for bar in bars) else 0)
    height = _ROW_PIXELS * len(bars)
    parts = [_bar(bar, i, full, text_width, note_width) for i, bar in enumerate(bars)]
    columns = zip(heads, (text_width, text_width + note_width), strict=True)
    parts += [_beyond(head, dx, y=-8, class_="axis") for head, dx in columns if head]
    if reference:
        parts.append(_vertical(reference, 100 * reference.value / full, height))
    left = _width([_label(bar.label) for bar in bars]) + 8
    return _chart(title, parts, left=left, right=text_width + note_width, top=_HEAD_PIXELS, height=height, bottom=2)


def thin(points: Sequence[tuple[float, float]], limit: int = 1200) -> list[tuple[float, float]]:
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
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _chart(title: str, parts: Sequence[Html], *, left: float, right: float, top: int, height: int, bottom: int) -> Html:
    # The margins are the page's, not the drawing's: inside, 0..100% is the plot whatever the screen.
    style = (
        f"display:block;overflow:visible;width:calc(100% - {left + right:.0f}px);height:{height}px;"
        f"margin:{top}px {right:.0f}px {bottom}px {left:.0f}px"
    )
    return element("svg", element("title", title), *parts, class_="chart", role="img", style=style)


def _empty(title: str) -> Html:
    return _chart(
        title, [element("text", "nothing was recorded", x="0", y="14")], left=0, right=0, top=0, height=20, bottom=0
    )


def _line(places: Sequence[tuple[float, float]], height: int) -> Html:
    path = " ".join(f"{x:.3f},{y:.2f}" for x, y in places)
    line = element("polyline", points=path, vector_effect="non-scaling-stroke", class_="line")
    stretched = {"viewBox": f"0 0 100 {height}", "preserveAspectRatio": "none"}
    return element("svg", line, width="100%", height=str(height), overflow="visible", **stretched)


def _y_grid(values: Sequence[float], labels: Sequence[str], *, y_low: float, y_high: float, height: int) -> list[Html]:
    tops = [height * (y_high - value) / (y_high - y_low) for value in values]
    grid = [element("line", x1="0", x2="100%", y1=_pixels(top), y2=_pixels(top), class_="grid") for top in tops]
    return grid + [
        element("text", label, x="-8", y=_pixels(top + 4), text_anchor="end", class_="tick")
        for label, top in zip(labels, tops, strict=True)
    ]


def _x_axis(values: Sequence[float], *, x_low: float, x_high: float, height: int, label: str) -> list[Html]:
    places = [_percent(100 * (value - x_low) / (x_high - x_low)) for value in values]
    marks = [element("line", x1=x, x2=x, y1=str(height), y2=str(height + 5), class_="base") for x in places]
    numbers = [
        element("text", text, x=x, y=str(height + 19), text_anchor="middle", class_="tick")
        for text, x in zip(format_ticks(values), places, strict=True)
    ]
    base = element("line", x1="0", x2="100%", y1=str(height), y2=str(height), class_="base")
    name = element("text", label, x="50%", y=str(height + 37), text_anchor="middle", class_="axis")
    return [base, *marks, *numbers, name]


def _reference(reference: Reference, top: float, tops: Sequence[float]) -> Html:
    # A label stands above its line, unless another line runs there.
    crowded = any(0 < top - other < 20 for other in tops)
    line = element("line", x1="0", x2="100%", y1=_pixels(top), y2=_pixels(top), class_="reference")
    label = f"{reference.label} {significant(reference.value)}"
    y = _pixels(top + 15 if crowded else top - 6)
    return element("g", line, element("text", label, x="100%", dx="-2", y=y, text_anchor="end", class_="reference"))


def _vertical(reference: Reference, place: float, height: int) -> Html:
    x = _percent(place)
    line = element("line", x1=x, x2=x, y1="-4", y2=str(height), class_="reference")
    label = f"{reference.label} {significant(reference.value)}"
    anchor = "start" if place < 30 else "end" if place > 70 else "middle"
    return element("g", line, element("text", label, x=x, y="-9", text_anchor=anchor, class_="reference"))


def _bar(bar: Bar, row: int, full: float, text_width: float, note_width: float) -> Html:
    y = row * _ROW_PIXELS
    width = _percent(min(100.0, max(0.0, 100 * bar.value / full)))
    return element(
        "g",
        element("title", " · ".join(part for part in bar if isinstance(part, str) and part)),
        element("text", _label(bar.label), x="-8", y=str(y + 15), text_anchor="end", class_="label"),
        element("rect", x="0", y=str(y + 4), width="100%", height="13", class_="track"),
        element("rect", x="0", y=str(y + 4), width=width, height="13", class_="bar"),
        _beyond(bar.text, text_width, y=y + 15, class_="value"),
        _beyond(bar.note, text_width + note_width, y=y + 15, class_="tick"),
    )


def _beyond(text: str, pixels: float, *, y: float, class_: str) -> Html:
    return element("text", text, x="100%", dx=_pixels(pixels), y=_pixels(y), text_anchor="end", class_=class_)


def _label(text: str) -> str:
    return shorten(text, _MAX_LABEL_CHARACTERS)


def _width(texts: Sequence[str]) -> float:
    return max((len(text) for text in texts), default=0) * _CHARACTER_PIXELS


def _pixels(value: float) -> str:
    return f"{value:.1f}"


def _percent(value: float) -> str:
    return f"{value:.3f}%"
