"""The curves of a run, drawn by matplotlib as SVG images that follow the reader's light or dark page."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_SIZE_INCHES = (4.0, 2.1)
_MOST_POINTS = 240
# matplotlib writes colours out; these stand for the names of the style sheet below and are replaced by them.
_COLOURS = {"--accent": "#010203", "--second": "#010204", "--muted": "#010205", "--rule": "#010206"}
_STYLE = """<style>
:root { --accent: #14656b; --second: #b8702a; --muted: #6d6a62; --rule: #e3dfd4; }
@media (prefers-color-scheme: dark) {
  :root { --accent: #6fc3c0; --second: #e0a05a; --muted: #9c988f; --rule: #31343a; }
}
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
</style>"""
_DRAWING: Any = {  # rc parameters; their stub names every key
    "svg.fonttype": "none",
    "svg.hashsalt": "neuclip",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
}


@dataclass(frozen=True)
class Curve:
    """What to draw: keys of the training log with their names, and how the values are to be read."""

    title: str
    note: str
    keys: dict[str, str]
    is_log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawn curve."""

    title: str
    note: str
    image: str
    """The SVG as a data URI."""
    last: dict[str, str]
    """The last value of each line by its name, for the legend."""


CURVES = (
    Curve("Loss", "The objective on the global batch.", {"loss": "loss"}),
    Curve("Temperature", "What similarities are divided by.", {"temperature": "temperature"}),
    Curve(
        "Normalizer error",
        "Mean squared error of the log-normalizers against exact ones.",
        {"normalizer_mse": "the objective's", "normalizer_batch_mse": "the batch alone"},
        is_log=True,
    ),
    Curve(
        "Normalizer ratio",
        "Normalizer of the batch over its estimate; 1 is a perfect estimate.",
        {"ratio_mean": "mean", "ratio_max": "largest"},
        is_log=True,
    ),
    Curve(
        "Spread of the features",
        "Standard deviation of the towers' unit features; 0 where all samples are the same.",
        {"image_spread": "images", "text_spread": "texts"},
        from_zero=True,
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
    charts: list[Chart] = []
    for curve in (*CURVES, *_of_terms(metrics)):
        series = series_of(curve, metrics)
        if series:
            last = {label: short(points[-1][1]) for label, points in series.items()}
            charts.append(Chart(curve.title, curve.note, _data_uri(figure_of(curve, series)), last))
    return charts


def _of_terms(metrics: Sequence[dict[str, Any]]) -> list[Curve]:
    """Return a curve for the loss of each term, and of the objective beside them, in nats."""
    keys = dict.fromkeys(key for line in metrics for key in line)
    losses = [key for key in keys if key.startswith("term_") and key.endswith("_loss")]
    curves = [
        Curve(f"Term {name}", "A loss beside the objective, before its weight.", {key: "loss"})
        for key in losses
        if (name := key.removeprefix("term_").removesuffix("_loss"))
    ]
    if curves:
        note = "Nats for each anchor, before its weight."
        curves.insert(0, Curve("Objective beside terms", note, {"objective_loss": "loss"}))
    return curves


def series_of(
    curve: Curve, metrics: Sequence[dict[str, Any]]
) -> dict[str, list[tuple[float, float]]]:
    """Return the points (samples seen, value) of each line of a curve that has at least two finite values.

    On a logarithmic axis only values above zero count. Long logs are thinned to means of neighbours; the last
    point stays as it is.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for key, label in curve.keys.items():
        points = [
            (float(line["samples_seen"]), float(line[key]))
            for line in metrics
            if isinstance(line.get(key), int | float)
            and math.isfinite(line[key])
            and (line[key] > 0 or not curve.is_log)
        ]
        if len(points) > 1:
            series[label] = _thinned(points)
    return series


def figure_of(curve: Curve, series: dict[str, list[tuple[float, float]]]) -> Figure:
    """Draw the lines of one curve."""
    with mpl.rc_context(_DRAWING):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for points, colour, dashes in zip(
            series.values(), ("--accent", "--second"), ("-", (0, (3, 2))), strict=False
        ):
            axes.plot(
                *zip(*points, strict=True), color=_COLOURS[colour], linestyle=dashes, linewidth=1.6
            )
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=_COLOURS["--rule"], linewidth=0.8)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, which="both", labelcolor=_COLOURS["--muted"])
        if curve.is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        elif curve.from_zero:
            axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_tick_label))
    return figure


def _tick_label(value: float, position: int | None) -> str:
    del position
    return short(value)


def _data_uri(figure: Figure) -> str:
    """Return a figure as a data URI; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context(_DRAWING):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<defs>", f"{_STYLE}<defs>", 1)
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var({name})")
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbours until a page needs no more points than it can show; the last one stays."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return points
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return [*means[:-1], points[-1]]


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
