"""Scales: round values that enclose or stay inside, and spikes that do not rule them."""

from itertools import pairwise

import pytest

from pipeline.report.scales import format_ticks, scale_limit, significant, thin, ticks


@pytest.mark.parametrize("count", [10, 20, 49, 50, 100, 1000])
@pytest.mark.parametrize("spikes", [[1e6], [55.0, 300.0, 900.0]])
def test_few_spikes_of_any_heights_are_cut_at_any_length(count: int, spikes: list[float]):
    if len(spikes) <= max(1, count // 20):
        assert scale_limit([*(6 + i % 3 for i in range(count - len(spikes))), *spikes]) == 8


def test_a_long_descent_a_step_function_and_a_short_series_are_not_cut():
    assert scale_limit([11 - 9 * i / 1000 for i in range(1000)]) == 11
    assert scale_limit([5.0] * 10 + [1.0] * 90) == 5.0
    assert scale_limit([1.0] * 8 + [50.0]) == 50.0
    assert scale_limit([1.0, 2.0, 3.0, 5.0, 8.0, 13.0] * 20) == 13.0
    assert scale_limit([1.0, 2.0] * 50 + [50.0], [9.0]) == 9.0


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


def test_significant_has_three_digits():
    assert [significant(x) for x in (7.0, 3.904, 0.0004012, 412.4, 12345.6)] == [
        "7.00",
        "3.90",
        "0.000401",
        "412",
        "12,346",
    ]
