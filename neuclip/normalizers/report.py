"""What `neuclip normalizers` found, as numbers, a table and a plot."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class EstimatorRow(BaseModel):
    """One estimator at one batch and data set size."""

    model_config = ConfigDict(frozen=True)

    estimator: str
    global_batch: int
    num_samples: int
    mse: float
    """Mean square of estimate minus exact log-normalizer, nats squared, both sides."""
    bias: float
    correlation: float
    known: float
    """Share of anchors that there is an estimate of."""


class NormalizerReport(BaseModel):
    """What `neuclip normalizers` found."""

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    step: int
    temperature: float
    num_anchors: int
    replayed_epochs: float
    exact_mean: float
    exact_std: float
    rows: list[EstimatorRow]


def write_report(report: NormalizerReport, folder: Path) -> None:
    """Write normalizers.json, a table normalizers.md and a plot normalizers.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "normalizers.json").write_text(report.model_dump_json(indent=1), encoding="utf-8")
    (folder / "normalizers.md").write_text(_markdown(report), encoding="utf-8")
    _plot(report, folder / "normalizers.svg")


def _markdown(report: NormalizerReport) -> str:
    lines = [
        f"Log-normalizers at step {report.step}, temperature {report.temperature:.4f}: exact ones have mean "
        f"{report.exact_mean:.2f} and standard deviation {report.exact_std:.2f} nats over {report.num_anchors} "
        "anchors and both sides.",
        "",
        "| estimator | batch | samples | MSE, nats^2 | bias, nats | correlation |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.estimator} | {row.global_batch} | {row.num_samples} | {row.mse:.3f} | {row.bias:+.3f} "
        f"| {row.correlation:.2f} |"
        for row in report.rows
    ]
    return "\n".join(lines) + "\n"


def _plot(report: NormalizerReport, path: Path) -> None:
    """Draw the error of each estimator over the batch, a panel a data set size."""
    from matplotlib.figure import Figure  # here, since training processes import this room

    sizes = sorted({row.num_samples for row in report.rows})
    figure = Figure(figsize=(4.5 * len(sizes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        rows = [row for row in report.rows if row.num_samples == size]
        for name in dict.fromkeys(row.estimator for row in rows):
            points = [(row.global_batch, row.mse) for row in rows if row.estimator == name]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set(xscale="log", yscale="log", xlabel="global batch", title=f"{size} samples")
        axes.set_xticks(sorted({row.global_batch for row in rows}))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:.0f}")
    panels[0].set_ylabel("MSE of log-normalizers, nats$^2$")
    panels[-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
