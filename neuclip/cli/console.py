"""What a person sees: live progress on stderr, and the tables at the end."""

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from neuclip.evaluation.comparison import HEADER, Versus, cells_of, rows_of
from neuclip.journey import StagePlan, StageReport
from neuclip.normalizers.report import NormalizerReport

_PLAIN_EVERY_S = 5.0
_NARROW = 100
_NOTE = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a long note must not squeeze the bars
_STATE_STYLE = {
    "done": "green",
    "cached": "green",
    "ran": "cyan",
    "partial": "yellow",
    "missing": "yellow",
}


def set_up_logging(console: Console, *, verbose: bool) -> None:
    """Send warnings (or everything of neuclip) to the console."""
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("neuclip").setLevel(logging.INFO if verbose else logging.WARNING)


class LiveProgress:
    """Progress of the stages: bars on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}

    @contextmanager
    def shown(self) -> Generator["LiveProgress"]:
        """Show progress while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=28 if self._console.width > _NARROW else 8),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", table_column=_NOTE),
        )
        with Progress(*columns, console=self._console, expand=True) as self._bars:
            yield self
        self._bars = None

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        """Take a report of a stage."""
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note="")
            self._bars.update(self._tasks[stage], completed=done, total=total, note=escape(note))
            return
        now = time.monotonic()
        if done >= total or now - self._last_line.get(stage, -_PLAIN_EVERY_S) >= _PLAIN_EVERY_S:
            self._last_line[stage] = now
            self._console.print(
                f"{stage:<9} {done}/{total} {note}", markup=False, highlight=False, soft_wrap=True
            )


def plan_table(plans: Sequence[StagePlan]) -> Table:
    """Return the table of `neuclip plan`."""
    table = Table("stage", "key", "state", "why", box=None, pad_edge=False, header_style="bold")
    for item in plans:
        state = f"[{_STATE_STYLE[item.state]}]{item.state}[/]"
        table.add_row(item.stage, item.key, state, escape(item.why))
        for what, cost in item.estimate.items():
            told = ", ".join(f"{number:,g} {unit}" for unit, number in cost.items() if number)
            table.add_row(
                "", "", "", escape(f"{what}: about {told}" if told else f"{what}: nothing")
            )
    return table


def stages_table(reports: Sequence[StageReport]) -> Table:
    """Return the table of stages at the end of a run."""
    table = Table(
        "stage",
        "state",
        "in",
        "out",
        "dropped",
        "seconds",
        "key",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in (2, 3, 5):
        table.columns[column].justify = "right"
    for report in reports:
        ledger = report.manifest.ledger
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in list(ledger.dropped.items())[:4]
        )
        more = len(ledger.dropped) - 4
        table.add_row(
            report.stage,
            f"[{_STATE_STYLE[report.state]}]{report.state}[/]",
            str(ledger.entered),
            str(ledger.out),
            reasons + (f", {more} more" if more > 0 else ""),
            f"{report.seconds:.1f}",
            report.key,
        )
    return table


def scores_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Return the table of scores, each against chance."""
    table = Table(
        "set",
        "metric",
        "score",
        "95 %",
        "chance",
        "times chance",
        "not scored",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in range(2, 7):
        table.columns[column].justify = "right"
    for row in scores:
        value, chance = float(row["main_value"]), float(row["chance"])
        lost = sum(row["not_scored"].values())
        is_default = row["main_metric_source"] == "default"
        table.add_row(
            row["set"],
            row["main_metric"] + (" (by default)" if is_default else ""),
            f"{value:.1%}",
            " to ".join(f"{bound:.1%}" for bound in row["intervals"][row["main_metric"]]),
            f"{chance:.2%}",
            f"{value / chance:.1f}",
            f"{lost} of {lost + row['samples']}" if lost else "0",
        )
    return table


def comparison_table(versus: Versus) -> Table:
    """Return the table of two models."""
    left_out = f"; not compared: {', '.join(versus.not_compared)}" if versus.not_compared else ""
    table = Table(
        *HEADER,
        box=None,
        pad_edge=False,
        header_style="bold",
        title=f"second {versus.second} over first {versus.first}",
        caption="percent and points; different: p stands after Holm's correction" + left_out,
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows_of(versus):
        table.add_row(*cells_of(row))
    return table


def normalizers_table(report: NormalizerReport) -> Table:
    """Return the table of `neuclip normalizers`."""
    table = Table(
        "estimator",
        "batch",
        "samples",
        "MSE, nats\u00b2",
        "bias, nats",
        "correlation",
        box=None,
        pad_edge=False,
        header_style="bold",
        caption=f"step {report.step}, temperature {report.temperature:.4f}; exact log-normalizers: "
        f"mean {report.exact_mean:.2f}, std {report.exact_std:.2f} nats, {report.num_anchors} anchors",
        caption_justify="left",
    )
    for column in range(1, 6):
        table.columns[column].justify = "right"
    for row in report.rows:
        table.add_row(
            row.estimator,
            str(row.global_batch),
            str(row.num_samples),
            f"{row.mse:.3f}",
            f"{row.bias:+.3f}",
            f"{row.correlation:.2f}",
        )
    return table
