"""How a budget is printed."""

from rich.markup import escape
from rich.table import Table

from neuclip.budget import Budget


def budget_table(budget: Budget) -> Table:
    """Return the phases of a run with what they take."""
    table = _numbers_table(
        "phase",
        "image tokens",
        "text tokens",
        "steps",
        "samples",
        "TMAC a step",
        "EMAC",
        "samples/s",
        "hours",
        "device hours",
        "price",
    )
    for phase in budget.phases:
        table.add_row(
            str(phase.phase),
            _image_tokens(phase.image_tokens, phase.image_px),
            str(phase.text_tokens),
            f"{phase.steps:,}",
            f"{phase.samples:,}",
            f"{phase.multiply_adds_a_step / 1e12:,.4g}",
            f"{phase.multiply_adds / 1e18:,.4g}",
            f"{phase.samples_per_s:,.4g}",
            f"{phase.hours:,.3g}",
            f"{phase.device_hours:,.3g}",
            "" if phase.price is None else f"{phase.price:,.2f}",
        )
    return table


def budget_lines(budget: Budget) -> list[str]:
    """Say in words what the run takes, and how that is known."""
    price = "" if budget.price is None else f", price {budget.price:,.2f}"
    lines = [
        f"{budget.hours:,.3g} hours on {budget.devices} x {budget.device}, {budget.device_hours:,.3g} device hours"
        f"{price}; {budget.training_samples:,} training samples",
        *(f"phase {phase.phase}: {phase.measured}" for phase in budget.phases),
    ]
    if budget.affordable_share is not None:
        lines.append(f"train.telemetry.budget is enough for {budget.affordable_share:.0%} of that")
    return [
        *lines,
        "",
        "the same hours, for other models and fewer tokens, at the same multiply-adds a second:",
    ]


def alternatives_table(budget: Budget) -> Table:
    """Return what the same hours would train."""
    table = _numbers_table(
        "model",
        "image tokens",
        "text tokens",
        "GMAC a pair",
        "samples/s",
        "samples",
        "passes",
        "of the run",
    )
    for one in budget.alternatives:
        table.add_row(
            escape(one.model),
            _image_tokens(one.image_tokens, one.image_px),
            str(one.text_tokens),
            f"{one.multiply_adds_a_pair / 1e9:,.3g}",
            f"{one.samples_per_s:,.4g}",
            f"{one.samples:,}",
            f"{one.passes:,.3g}",
            f"{one.share:.0%}",
        )
    return table


def _image_tokens(tokens: int | None, px: int) -> str:
    return f"{px} px" if tokens is None else f"{tokens} ({px} px)"


def _numbers_table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    return table
