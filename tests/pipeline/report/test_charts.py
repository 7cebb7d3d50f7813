import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pipeline.report.charts import Bar, Reference, bar_chart, format_ticks, line_chart, thin, ticks

NAMES = {"title": "Loss", "x_label": "step", "y_label": "nats"}


def _parts(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(name))


def _texts(svg: str) -> list[str]:
    return [part.text or "" for part in _parts(svg, "text")]


def _line(svg: str) -> list[tuple[float, float]]:
    pairs = _parts(svg, "polyline")[0].attrib["points"].split()
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]


def test_line_chart_draws_larger_values_higher_and_later_steps_further_right():
    (x1, y1), (x2, y2), (x3, y3) = _line(line_chart([(1, 9.0), (2, 7.0), (3, 8.0)], **NAMES))
    assert (x1, x2, x3) == (0, 50, 100)
    assert y1 < y3 < y2


def test_line_chart_places_a_reference_on_the_scale_of_the_line():
    svg = line_chart([(1, 9.0), (2, 7.0)], **NAMES, references=[Reference("entropy", 9.0)])
    line = next(part for part in _parts(svg, "line") if part.attrib["class"] == "reference")
    assert float(line.attrib["y1"]) == pytest.approx(_line(svg)[0][1], abs=0.1)
    assert "entropy 9" in _texts(svg)


def test_line_chart_makes_room_for_a_reference_beyond_the_data():
    svg = line_chart([(1, 5.0), (2, 4.0)], **NAMES, references=[Reference("ln(vocabulary)", 9.01)], height=200)
    line = next(part for part in _parts(svg, "line") if part.attrib["class"] == "reference")
    assert 0 <= float(line.attrib["y1"]) < _line(svg)[0][1]


def test_line_chart_from_zero_marks_zero():
    assert "0" in _texts(line_chart([(1, 900.0), (2, 1000.0)], **NAMES, from_zero=True))
    assert "0" not in _texts(line_chart([(1, 900.0), (2, 1000.0)], **NAMES))


@pytest.mark.parametrize(
    "points",
    [[(1, 3.0)], [(1, 0.0)], [(1, 3.0), (2, 3.0)], [(1, -2.0), (2, -2.0)], [(1, 1e-9), (2, 2e-9)], [(1, 1e12)]],
)
def test_line_chart_draws_one_point_and_constant_values(points: list[tuple[float, float]]):
    svg = line_chart(points, **NAMES)
    assert len(_line(svg)) == len(points)
    assert all(0 <= x <= 100 and 0 <= y <= 220 for x, y in _line(svg))


@pytest.mark.parametrize("points", [[], [(1, float("nan"))], [(1, float("inf"))]])
def test_line_chart_says_when_there_is_nothing_to_draw(points: list[tuple[float, float]]):
    assert _texts(line_chart(points, **NAMES)) == ["nothing was recorded"]


def test_line_chart_leaves_out_a_loss_that_is_not_a_number():
    assert len(_line(line_chart([(1, 3.0), (2, float("nan")), (3, 2.0)], **NAMES))) == 2


def test_charts_are_images_with_an_escaped_name():
    for svg in (line_chart([(1, 2.0)], title="<b>", x_label="<x>", y_label="&"), bar_chart([], title="<b>")):
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root.findtext("title") == "<b>"


def test_bar_chart_widths_are_in_proportion_and_in_order():
    svg = bar_chart([Bar("sw", 1.0, "1.000"), Bar("yo", 4.0, "4.000", "12")], title="bits")
    widths = [part.attrib["width"] for part in _parts(svg, "rect") if part.attrib["class"] == "bar"]
    assert widths == ["25.000%", "100.000%"]
    assert _texts(svg)[:3] == ["sw", "1.000", ""]
    assert _texts(svg)[3:6] == ["yo", "4.000", "12"]


def test_bar_chart_shares_a_scale_and_marks_the_reference_on_it():
    svg = bar_chart([Bar("sw", 1.0, "1")], title="bits", maximum=4.0, reference=Reference("mean", 2.0))
    assert [part.attrib["width"] for part in _parts(svg, "rect") if part.attrib["class"] == "bar"] == ["25.000%"]
    assert [part.attrib["x1"] for part in _parts(svg, "line")] == ["50.000%"]
    assert "mean 2" in _texts(svg)


def test_bar_chart_of_zeros_has_empty_bars():
    svg = bar_chart([Bar("a", 0.0, "0"), Bar("b", 0.0, "0")], title="zeros", reference=Reference("mean", 0.0))
    assert [part.attrib["width"] for part in _parts(svg, "rect") if part.attrib["class"] == "bar"] == ["0.000%"] * 2


def test_bar_chart_escapes_names_and_cuts_long_ones_but_keeps_them_whole_in_the_title():
    name = "<script>" + "a" * 90
    svg = bar_chart([Bar(name, 1.0, "1")], title="t")
    assert "<script" not in svg
    assert max(len(text) for text in _texts(svg)) <= 16
    assert any(name in (part.text or "") for part in _parts(svg, "title"))


def test_chart_margins_and_width_fill_the_column_exactly():
    style = ElementTree.fromstring(bar_chart([Bar("sw", 1.0, "1.000")], title="t")).attrib["style"]
    taken = int(re.findall(r"100% - (\d+)px", style)[0])
    _, right, _, left = map(int, re.findall(r"margin:(\d+)px (\d+)px (\d+)px (\d+)px", style)[0])
    assert taken == left + right


def test_thin_keeps_short_series_and_averages_long_ones():
    assert thin([(1, 2.0), (2, 4.0)], limit=2) == [(1, 2.0), (2, 4.0)]
    assert thin([(1, 2.0), (2, 4.0), (3, 6.0)], limit=2) == [(1.5, 3.0), (3.0, 6.0)]
    assert len(thin([(i, 1.0) for i in range(100_001)])) <= 1200


@pytest.mark.parametrize(("low", "high"), [(6.2, 9.1), (0, 1), (1, 200), (1e-5, 4e-3), (-3, 7), (999_999, 1_000_001)])
def test_ticks_are_even_and_stay_inside_or_enclose(low: float, high: float):
    inside, around = ticks(low, high), ticks(low, high, outward=True)
    step = inside[1] - inside[0]
    assert all(b - a == pytest.approx(step) for a, b in pairwise(around))
    assert low - 1e-9 <= inside[0] and inside[-1] <= high + 1e-9
    assert around[0] <= low and high <= around[-1]
    assert 3 <= len(inside) <= 8


def test_format_ticks_tells_them_apart_with_few_decimals():
    assert format_ticks([0, 2000.0, 4000.0]) == ["0", "2,000", "4,000"]
    assert format_ticks([6.5, 7.0]) == ["6.5", "7.0"]
    assert format_ticks([0.0, 0.001, 0.002]) == ["0.000", "0.001", "0.002"]
    assert len(set(format_ticks(ticks(0, 3e-7)))) == len(ticks(0, 3e-7))
