import math

import pytest

from neuclip.publishing.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    draw_charts,
    linear_ticks,
    short,
)
from neuclip.publishing.text import percent, seconds


def lines(**values):
    count = len(next(iter(values.values())))
    return [
        {"step": i + 1, "samples_seen": 100 * (i + 1)} | {k: v[i] for k, v in values.items()}
        for i in range(count)
    ]


def points(line):
    return [tuple(map(float, point.split(","))) for point in line.points.split()]


def test_a_line_lies_where_its_values_are():
    """Hand-made: losses 0, 1, 2 at 100, 200, 300 samples; the axes run from 0 to 300 and from 0 to 2."""
    (chart,) = draw_charts(lines(loss=[0.0, 1.0, 2.0]))
    third = (WIDTH - RIGHT - LEFT) / 3
    middle = (HEIGHT - BOTTOM + TOP) / 2
    expected = [
        (LEFT + third, HEIGHT - BOTTOM),
        (LEFT + 2 * third, middle),
        (LEFT + 3 * third, TOP),
    ]
    assert points(chart.lines[0]) == [pytest.approx(point, abs=0.06) for point in expected]
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.label for tick in chart.x_ticks] == ["0", "100", "200", "300"]


def test_a_log_axis_spaces_decades_evenly():
    (chart,) = draw_charts(
        lines(normalizer_mse=[1.0, 0.1, 0.01], normalizer_mse_batch=[1.0, 1.0, 1.0])
    )
    heights = [y for _, y in points(chart.lines[0])]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)
    assert [tick.label for tick in chart.y_ticks] == ["0.01", "0.1", "1"]
    assert len(chart.lines) == 2


def test_values_that_are_missing_or_not_finite_are_left_out():
    (chart,) = draw_charts(lines(loss=[3.0, math.nan, None, math.inf, 1.0], lr=[None] * 5))
    assert chart.title == "Loss"
    assert len(points(chart.lines[0])) == 2


def test_a_single_value_and_no_value_draw_nothing():
    assert draw_charts([]) == []
    assert draw_charts(lines(loss=[1.0])) == []


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_draws_a_level_line_inside_the_box(value):
    for chart in draw_charts(lines(loss=[value] * 3, lr=[abs(value)] * 3)):
        heights = {y for _, y in points(chart.lines[0])}
        assert len(heights) == 1
        assert TOP <= heights.pop() <= HEIGHT - BOTTOM


def test_long_logs_are_thinned_to_their_means_and_keep_their_end():
    (chart,) = draw_charts(lines(loss=[float(i % 2) for i in range(10_000)]))
    drawn = points(chart.lines[0])
    assert len(drawn) <= 240
    assert drawn[-1][0] == WIDTH - RIGHT


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 307_712, [0, 100_000, 200_000, 300_000, 400_000]),
        (0.031, 0.069, [0.03, 0.04, 0.05, 0.06, 0.07]),
        (-2, 2, [-2, -1, 0, 1, 2]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert linear_ticks(low, high, 4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.034, "0.034"),
        (2e-5, "2e-5"),
        (1500, "1.5k"),
        (12e6, "12M"),
        (3e9, "3G"),
        (-1500, "-1.5k"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_shares_and_durations_are_readable():
    assert [percent(x) for x in (0, 0.0027, 0.413, 1)] == [
        f"{x}\u202f%" for x in ("0.0", "0.27", "41.3", "100.0")
    ]
    assert [seconds(x) for x in (4.23, 200, 18_720)] == ["4.2 s", "3 min 20 s", "5 h 12 min"]
