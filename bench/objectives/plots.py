"""The plots of the evidence, as SVG that a page or a README can show."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.objectives import estimation, rivals
from bench.objectives.records import Record, grouped, mean_std, read

_SHOWN = {
    "aged queue 15000": ("aged queue", "#14656b", "-"),
    "FIFO 4096": ("queue, m 4096", "#3f9c8f", "-"),
    "NPN m 1024, T_u 10, T_r 100": ("network, m 1024", "#b8702a", "-"),
    "NPN m 64, T_u 10, T_r 500": ("network, m = B", "#e0a05a", "-"),
    "OpenCLIP, implied": ("OpenCLIP, implied", "#6d6a62", "--"),
    "mini-batch": ("mini-batch", "#a8a49a", "--"),
    "FIFO 64": ("queue, m = B", "#3f9c8f", ":"),
    "FastCLIP gamma 0.6": ("FastCLIP, gamma 0.6", "#8a3b5c", "--"),
    "FastCLIP gamma 0.2": ("FastCLIP, gamma 0.2", "#c58aa6", "--"),
}


def draw_all(out: Path) -> None:
    """Draw what there are records of."""
    runs = grouped(read(out / estimation.RECORDS), "data", "count", "batch")
    known = {title: runs[study] for study, title in estimation.STUDIES.items() if study in runs}
    if known:
        _save(_errors(known), out / "estimation.svg")
    if all(part in runs for pair in estimation.GROWTHS.values() for part in pair):
        _save(_growth(runs), out / "growth.svg")
    scenes = [run for run in read(out / rivals.RECORDS) if run["settings"]["data"] == "scenes"]
    told = [run for run in scenes if run["settings"]["seed"] in rivals.TOLD]
    if told:
        _save(_temperatures(told), out / "temperature.svg")


def _errors(studies: dict[str, list[Record]]) -> Figure:
    """MSE over the course of the run, a panel a data set."""
    figure = Figure(figsize=(4.4 * len(studies) + 1.8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    for axes, (title, records) in zip(panels, studies.items(), strict=True):
        for name, (label, colour, dashes) in _SHOWN.items():
            points = [
                mean_std(record["estimation"][i]["rows"][name]["mse"] for record in records)[0]
                for i in range(len(records[0]["estimation"]))
            ]
            epochs = range(1, len(points) + 1)
            axes.plot(epochs, points, dashes, color=colour, label=label, marker="o", markersize=3)
        axes.set(yscale="log", xlabel="epoch", title=title)
        axes.set_xticks(list(epochs))
    panels[0].set_ylabel("MSE of log-normalizers, nats$^2$")
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _growth(runs: Any) -> Figure:
    """Change of the mean MSE when the batch is halved, and when the data set is ten times larger."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, (before, after)) in zip(panels, estimation.GROWTHS.items(), strict=True):
        for place, (name, (_, colour, _)) in enumerate(_SHOWN.items()):
            changes = estimation.growth(runs[before], runs[after], name)
            mean, std = mean_std(changes)
            axes.barh(place, mean, xerr=std, color=colour, height=0.7)
        axes.set(xlabel="change of MSE, nats$^2$", title=title)
        axes.axvline(0, color="black", linewidth=0.6)
    panels[0].set_yticks(range(len(_SHOWN)), [label for label, _, _ in _SHOWN.values()])
    panels[0].invert_yaxis()
    return figure


def _temperatures(records: list[Record]) -> Figure:
    """The temperature over the runs that are told, a panel a batch size."""
    batches = grouped(records, "batch")
    figure = Figure(figsize=(4.4 * len(batches) + 1.8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, ((batch,), runs) in zip(panels, batches.items(), strict=True):
        for colour, ((name,), of_name) in enumerate(grouped(runs, "name").items()):
            for number, run in enumerate(of_name):
                steps, _, taus = zip(*run["curve"], strict=True)
                label = name if number == 0 else None
                axes.plot(steps, taus, color=f"C{colour}", linewidth=0.9, label=label)
        axes.set(yscale="log", xlabel="step", title=f"batch {batch}")
    panels[0].set_ylabel("temperature")
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
