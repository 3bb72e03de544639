"""Line charts as geometry: what the template draws as SVG, coloured by the page's own style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 400, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
_MOST_POINTS = 240
_STEPS = (1, 2, 2.5, 5, 10)
_FEW_DECADES = 4


@dataclass(frozen=True)
class Tick:
    """A mark of an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    label: str
    points: str
    last: str
    """The last value, for the legend."""


@dataclass(frozen=True)
class Chart:
    """A chart over the samples seen."""

    title: str
    note: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Curve:
    """What to draw: keys of the training log with their names, and how the values are to be read."""

    title: str
    note: str
    keys: dict[str, str]
    is_log: bool = False
    from_zero: bool = False


CURVES = (
    Curve("Loss", "The objective on the global batch.", {"loss": "loss"}),
    Curve("Temperature", "What similarities are divided by.", {"temperature": "temperature"}),
    Curve(
        "Normalizer error",
        "Mean squared error of the log-normalizers against exact ones.",
        {"normalizer_mse": "the objective's", "normalizer_mse_batch": "the batch alone"},
        is_log=True,
    ),
    Curve(
        "Normalizer ratio",
        "Normalizer of the batch over its estimate; 1 is a perfect estimate.",
        {"ratio_mean": "mean", "ratio_max": "largest"},
        is_log=True,
    ),
    Curve("Learning rate", "Of the towers.", {"lr": "rate"}, from_zero=True),
    Curve("Throughput", "Samples per second.", {"samples_per_s": "samples/s"}, from_zero=True),
    Curve(
        "Waiting for data",
        "Share of the time in which no batch was ready.",
        {"data_wait": "share"},
        from_zero=True,
    ),
)


def draw_charts(metrics: Sequence[dict[str, Any]]) -> list[Chart]:
    """Draw every curve that the training log has at least two values of."""
    charts = (_draw(curve, metrics) for curve in CURVES)
    return [chart for chart in charts if chart is not None]


def _draw(curve: Curve, metrics: Sequence[dict[str, Any]]) -> Chart | None:
    """Place one curve's values in the box."""
    series = {
        label: _thinned(_values(metrics, key, is_log=curve.is_log))
        for key, label in curve.keys.items()
    }
    series = {label: points for label, points in series.items() if len(points) > 1}
    if not series:
        return None
    all_points = [point for points in series.values() for point in points]
    last_x = max(x for x, _ in all_points)
    low, high = min(y for _, y in all_points), max(y for _, y in all_points)
    y_values, low, high = _y_axis(low, high, is_log=curve.is_log, from_zero=curve.from_zero)
    x_place = _scale(0, last_x, LEFT, WIDTH - RIGHT)
    y_place = _scale(low, high, HEIGHT - BOTTOM, TOP, is_log=curve.is_log)
    return Chart(
        title=curve.title,
        note=curve.note,
        lines=[
            Line(
                label=label,
                points=" ".join(f"{x_place(x):.1f},{y_place(y):.1f}" for x, y in points),
                last=short(points[-1][1]),
            )
            for label, points in series.items()
        ],
        x_ticks=[Tick(x_place(x), short(x)) for x in linear_ticks(0, last_x, 4) if x <= last_x],
        y_ticks=[Tick(y_place(y), short(y)) for y in y_values],
    )


def _values(
    metrics: Sequence[dict[str, Any]], key: str, *, is_log: bool
) -> list[tuple[float, float]]:
    """Return (samples seen, value) of the lines that have a finite value, above zero for a log axis."""
    return [
        (float(line["samples_seen"]), float(line[key]))
        for line in metrics
        if isinstance(line.get(key), int | float)
        and math.isfinite(line[key])
        and (line[key] > 0 or not is_log)
    ]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbours until a page needs no more points than it can show; the last one stays."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return points
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return [*means[:-1], points[-1]]


def _y_axis(
    low: float, high: float, *, is_log: bool, from_zero: bool
) -> tuple[list[float], float, float]:
    """Return ticks and the ends of the axis, which are ticks."""
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        stride = math.ceil((last - first) / _FEW_DECADES)
        return [10.0**e for e in range(first, last + 1, stride)], 10.0**first, 10.0**last
    if from_zero:
        low = min(low, 0.0)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin * (not from_zero), high + margin
    ticks = linear_ticks(low, high, 4)
    return ticks, ticks[0], ticks[-1]


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover a range."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _scale(
    low: float, high: float, start: float, end: float, *, is_log: bool = False
) -> Callable[[float], float]:
    """Return the map of low..high to start..end."""
    read: Callable[[float], float] = math.log10 if is_log else float
    first, span = read(low), (read(high) - read(low)) or 1.0
    return lambda value: start + (end - start) * (read(value) - first) / span


def short(value: float) -> str:
    """Write a number in few characters: 1.5k, 12M, 0.034, 2e-05."""
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.3g}{suffix}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"
