"""The geometry of charts, and that the templates draw it."""

import math
from typing import Any
from xml.etree import ElementTree

import jinja2
import pytest

from pipeline.report.charts import Bar, BarChart, LineChart, Mark, Reference, bar_chart, line_chart
from pipeline.report.page import TEMPLATES, make_environment

NAMES: dict[str, Any] = {"title": "Loss", "x_label": "step", "y_label": "nats"}
QUIET = [(float(step), 2.0 + step % 3) for step in range(1, 101)]


def drawn(chart: LineChart | BarChart) -> str:
    name = "line_chart" if isinstance(chart, LineChart) else "bar_chart"
    source = f'{{% import "charts.html.j2" as charts %}}{{{{ charts.{name}(chart) }}}}'
    return make_environment([TEMPLATES]).from_string(source).render(chart=chart).strip()


def parts(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(name))


def texts(svg: str) -> list[str]:
    return [part.text or "" for part in parts(svg, "text")]


def line(chart: LineChart) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in chart.line.split())
    return [(float(x), float(y)) for x, y in pairs]


def test_line_chart_draws_larger_values_higher_and_later_steps_further_right():
    (x1, y1), (x2, y2), (x3, y3) = line(line_chart([(1, 9.0), (2, 7.0), (3, 8.0)], **NAMES))
    assert (x1, x2, x3) == (0, 50, 100)
    assert y1 < y3 < y2


def test_line_chart_places_a_reference_on_the_scale_of_the_line():
    chart = line_chart([(1, 9.0), (2, 7.0)], **NAMES, references=[Reference("entropy", 9.0)])
    assert chart.references[0].line == pytest.approx(line(chart)[0][1], abs=0.1)
    assert "entropy 9.00" in texts(drawn(chart))


def test_line_chart_makes_room_for_a_reference_beyond_the_data():
    chart = line_chart([(1, 5.0), (2, 4.0)], **NAMES, references=[Reference("ln(vocabulary)", 9.01)], height=200)
    assert 0 <= (chart.references[0].line or math.nan) < line(chart)[0][1]


def test_line_chart_from_zero_marks_zero():
    assert "0" in texts(drawn(line_chart([(1, 900.0), (2, 1000.0)], **NAMES, from_zero=True)))
    assert "0" not in texts(drawn(line_chart([(1, 900.0), (2, 1000.0)], **NAMES)))


@pytest.mark.parametrize(
    "points",
    [[(1, 3.0)], [(1, 0.0)], [(1, 3.0), (2, 3.0)], [(1, -2.0), (2, -2.0)], [(1, 1e-9), (2, 2e-9)], [(1, 1e12)]],
)
def test_line_chart_draws_one_point_and_constant_values(points: list[tuple[float, float]]):
    chart = line_chart(points, **NAMES)
    assert len(line(chart)) == len(points)
    assert all(0 <= x <= 100 and 0 <= y <= 220 for x, y in line(chart))


@pytest.mark.parametrize("points", [[], [(1, float("nan"))], [(1, float("inf"))]])
def test_line_chart_says_when_there_is_nothing_to_draw(points: list[tuple[float, float]]):
    assert texts(drawn(line_chart(points, **NAMES))) == ["nothing was recorded"]


def test_line_chart_leaves_out_a_loss_that_is_not_a_number():
    assert len(line(line_chart([(1, 3.0), (2, float("nan")), (3, 2.0)], **NAMES))) == 2


def test_a_spike_does_not_rule_the_scale_and_is_told():
    chart = line_chart([*QUIET[:50], (51, 412.0), (52, 90.0), *QUIET[52:]], **NAMES, from_zero=True)
    calm = line_chart(QUIET, **NAMES, from_zero=True)
    assert [tick.text for tick in chart.y_ticks] == [tick.text for tick in calm.y_ticks]
    assert all(0 <= y <= chart.height for _, y in line(chart))
    assert (chart.num_clipped, chart.highest) == (2, "412 at 51")
    assert [run.text for run in chart.clipped] == ["412 at 51"]  # one mark for both
    assert "▲" in texts(drawn(chart))


def test_numbers_that_no_scale_holds_are_left_out():
    chart = line_chart([(1, 1e308), (2, -1e308), (3, 2.0), (4, 3.0)], **NAMES)
    assert len(line(chart)) == 2


def test_a_spike_between_means_of_neighbours_stays_within_the_plot():
    points = [(float(i), 1.0 + i % 2 + (1e9 if i == 70_000 else 0)) for i in range(100_000)]
    chart = line_chart(points, **NAMES)
    assert all(0 <= y <= chart.height for _, y in line(chart))
    assert chart.highest == "1,000,000,001 at 70,000"


def test_marks_stand_where_it_happened_and_say_what():
    marks = [Mark("restart", 50, "restart after step 50"), Mark("rollback", 75, "<roll-back>")]
    svg = drawn(line_chart([(0, 1.0), (100, 2.0)], **NAMES, marks=marks))
    found = [part for part in parts(svg, "line") if part.attrib["class"].startswith("mark")]
    assert [(part.attrib["class"], part.attrib["x1"]) for part in found] == [
        ("mark restart", "50.000%"),
        ("mark rollback", "75.000%"),
    ]
    assert [part.findtext("title") for part in found] == ["restart after step 50", "<roll-back>"]


def test_many_restarts_are_counted_and_drawn_in_few_marks():
    marks = [Mark("restart", i, "") for i in range(10_000)]
    chart = line_chart([(0, 1.0), (10_000, 2.0)], **NAMES, marks=marks)
    assert chart.num_marks["restart"] == 10_000 and len(chart.marks) <= 401


def test_a_mark_before_the_first_step_is_at_the_edge():
    assert line_chart([(10, 1.0), (20, 2.0)], **NAMES, marks=[Mark("restart", 0, "")]).marks[0].at == 0


def test_charts_are_images_with_an_escaped_name():
    for chart in (line_chart([(1, 2.0)], title="<b>", x_label="<x>", y_label="&"), bar_chart([], title="<b>")):
        root = ElementTree.fromstring(drawn(chart))
        assert root.attrib["role"] == "img"
        assert root.findtext("title") == "<b>"


def test_bar_chart_widths_are_in_proportion_and_in_order():
    chart = bar_chart([Bar("sw", 1.0, "1.000"), Bar("yo", 4.0, "4.000", "12")], title="bits")
    assert [row.width for row in chart.rows] == [25.0, 100.0]
    assert texts(drawn(chart)) == ["sw", "1.000", "yo", "4.000", "12"]


def test_bar_chart_shares_a_scale_and_marks_the_reference_on_it():
    chart = bar_chart([Bar("sw", 1.0, "1")], title="bits", maximum=4.0, reference=Reference("mean", 2.0))
    assert [row.width for row in chart.rows] == [25.0]
    assert [part.attrib["x1"] for part in parts(drawn(chart), "line")] == ["50.000%"]
    assert "mean 2.00" in texts(drawn(chart))


def test_bar_chart_of_zeros_has_empty_bars():
    chart = bar_chart([Bar("a", 0.0, "0"), Bar("b", 0.0, "0")], title="zeros", reference=Reference("mean", 0.0))
    assert [row.width for row in chart.rows] == [0.0, 0.0]


def test_bar_chart_escapes_names_and_cuts_long_ones_but_keeps_them_whole_in_the_title():
    name = "<script>" + "a" * 90
    svg = drawn(bar_chart([Bar(name, 1.0, "1")], title="t"))
    assert "<script" not in svg
    assert max(len(text) for text in texts(svg)) <= 16
    assert any(name in (part.text or "") for part in parts(svg, "title"))


@pytest.mark.parametrize(
    "chart", [bar_chart([Bar("sw", 1.0, "1.000")], title="t"), line_chart([(1, 2.0), (2, 3.0)], **NAMES)]
)
def test_chart_margins_and_width_fill_the_column_exactly(chart: LineChart | BarChart):
    style = ElementTree.fromstring(drawn(chart)).attrib["style"]
    assert f"calc(100% - {chart.left + chart.right}px)" in style
    assert f"margin:{chart.top}px {chart.right}px {chart.bottom}px {chart.left}px" in style


def test_a_template_that_asks_for_what_is_not_there_fails():
    with pytest.raises(jinja2.UndefinedError):
        make_environment([TEMPLATES]).from_string("{{ nothing }}").render()
