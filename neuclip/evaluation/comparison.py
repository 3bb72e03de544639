"""What `neuclip compare` found, as numbers, a table and a plot."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from neuclip.evaluation.interval import Interval

HEADER = ("set", "metric", "first", "second", "difference", "95 %", "p", "different")


class Difference(BaseModel):
    """One model over another on one set, or over all of them."""

    model_config = ConfigDict(frozen=True)

    task: str
    metric: str
    first: float
    second: float
    difference: float
    """Second minus first, shares of 0..1."""
    interval: Interval
    p: float
    """How often a difference as large would come of models of the same quality."""
    is_different: bool
    """Whether p stands after Holm's correction for the number of tasks."""


class Versus(BaseModel):
    """Two models on all sets that both are scored on."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    tasks: list[Difference]
    average: Difference | None
    """Of the main metrics, if there is more than one set."""
    not_compared: list[str]
    """Sets that only one of them is scored on."""


def write_comparison(found: Sequence[Versus], folder: Path) -> None:
    """Write comparison.json, a table comparison.md and a plot comparison.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(one.model_dump_json(indent=1) for one in found)
    (folder / "comparison.json").write_text(f"[{rows}]\n", encoding="utf-8")
    (folder / "comparison.md").write_text("\n".join(map(_markdown, found)), encoding="utf-8")
    _plot(found, folder / "comparison.svg")


def rows_of(versus: Versus) -> list[Difference]:
    """Return the tasks and, if there are several, their average."""
    return [*versus.tasks, *([versus.average] if versus.average else [])]


def cells_of(row: Difference) -> tuple[str, ...]:
    """Return a row as it is shown, in percent and points."""
    return (
        row.task,
        row.metric,
        f"{100 * row.first:.1f}",
        f"{100 * row.second:.1f}",
        f"{100 * row.difference:+.1f}",
        " to ".join(f"{100 * bound:+.1f}" for bound in row.interval),
        f"{row.p:.2g}",
        "yes" if row.is_different else "no",
    )


def _markdown(versus: Versus) -> str:
    lines = [
        f"First: {versus.first}; second: {versus.second}",
        "",
        *("| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER))),
        *("| " + " | ".join(cells_of(row)) + " |" for row in rows_of(versus)),
    ]
    if versus.not_compared:
        lines += [
            "",
            f"Not compared, since only one of them is scored on it: {', '.join(versus.not_compared)}",
        ]
    return "\n".join(lines) + "\n"


def _plot(found: Sequence[Versus], path: Path) -> None:
    """Draw each difference with its interval, a panel a pair of models."""
    from matplotlib.figure import Figure

    most = max(len(rows_of(versus)) for versus in found)
    figure = Figure(figsize=(7, (1.2 + 0.3 * most) * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, versus in zip(panels, found, strict=True):
        rows = rows_of(versus)
        for place, row in enumerate(rows):
            colour = "#14656b" if row.is_different else "#8a8680"
            axes.plot([100 * bound for bound in row.interval], [place, place], color=colour)
            axes.plot(100 * row.difference, place, "o", color=colour, markersize=4)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(rows)), [row.task for row in rows])
        axes.invert_yaxis()
        axes.set(
            xlabel="second minus first, points",
            title=f"{_short(versus.second)} over {_short(versus.first)}",
        )
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _short(uri: str) -> str:
    return "/".join(uri.rsplit("/", 3)[-3:])
