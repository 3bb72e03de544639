import base64
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from neuclip.publishing.charts import CURVES, draw_charts, figure_of, series_of, short
from neuclip.publishing.text import percent, seconds

LOSS, ERROR = CURVES[0], CURVES[2]


def lines(**values):
    count = len(next(iter(values.values())))
    return [
        {"step": i + 1, "samples_seen": 100 * (i + 1)} | {k: v[i] for k, v in values.items()}
        for i in range(count)
    ]


def test_a_line_is_drawn_where_its_values_are():
    """Oracle: matplotlib's own record of what it drew."""
    series = series_of(LOSS, lines(loss=[0.0, 1.0, 2.0]))
    (line,) = figure_of(LOSS, series).axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [(100, 0), (200, 1), (300, 2)])


def test_an_error_has_two_lines_on_a_log_axis():
    metrics = lines(normalizer_mse=[1.0, 0.1, 0.0], normalizer_batch_mse=[1.0, 1.0, 1.0])
    axes = figure_of(ERROR, series_of(ERROR, metrics)).axes[0]
    assert axes.get_yscale() == "log"
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 3]


def test_values_that_are_missing_or_not_finite_are_left_out():
    metrics = lines(loss=[3.0, math.nan, None, math.inf, 1.0], lr=[None] * 5)
    (chart,) = draw_charts(metrics)
    assert (chart.title, chart.last) == ("Loss", {"loss": "1"})
    assert series_of(LOSS, metrics) == {"loss": [(100, 3), (500, 1)]}


def test_a_single_value_and_no_value_draw_nothing():
    assert draw_charts([]) == []
    assert draw_charts(lines(loss=[1.0])) == []


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_can_be_drawn(value):
    assert len(draw_charts(lines(loss=[value] * 3, lr=[abs(value)] * 3))) == 2


def test_long_logs_are_thinned_to_their_means_and_keep_their_end():
    points = series_of(LOSS, lines(loss=[float(i % 2) for i in range(10_000)]))["loss"]
    assert len(points) <= 240
    assert points[-1] == (1_000_000, 1.0)
    assert all(abs(y - 0.5) < 0.02 for _, y in points[:-1])


def test_an_image_is_the_same_each_time_and_needs_nothing_from_outside():
    (chart,), (again,) = (draw_charts(lines(loss=[3.0, 2.0, 1.0])) for _ in range(2))
    assert chart == again
    text = base64.b64decode(chart.image.split(",", 1)[1]).decode()
    root = ElementTree.fromstring(text)
    tags = {element.tag.rsplit("}", 1)[-1] for element in root.iter()}
    assert not tags & {"script", "image", "foreignObject"}
    assert "#0102" not in text
    assert "var(--accent)" in text
    hrefs = {v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")}
    assert all(href.startswith("#") for href in hrefs)


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


def test_each_term_has_a_curve_and_the_objective_beside_them():
    metrics = lines(
        term_words_loss=[3.0, 2.0, 1.0],
        term_near_loss=[0.0, 0.0, 4.0],
        term_near_entropy=[1.0, 1.0, 1.0],
        objective_loss=[5.0, 4.0, 3.0],
    )
    assert [(chart.title, chart.last["loss"]) for chart in draw_charts(metrics)] == [
        ("Objective beside terms", "3"),
        ("Term words", "1"),
        ("Term near", "4"),
    ]
    assert draw_charts(lines(objective_loss=[5.0, 4.0])) == []
