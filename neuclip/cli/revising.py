"""What a person sees of a repair and of a takedown."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from neuclip.acquire.repair import Repair
from neuclip.journey import StageReport
from neuclip.takedown.run import TakedownReport

_MOST_SHOWN = 20


def repair_lines(done: Repair, report: StageReport) -> Iterator[str]:
    """Yield the lines of `neuclip repair`."""
    if not done.tried and not done.retries:
        yield "nothing to repair: no row failed for a reason that may not hold the next time"
    elif not done.retries:
        yield f"{done.tried} rows were tried again, none of them is there now; nothing was changed"
    else:
        again = ", ".join(f"{count} {reason}" for reason, count in done.failed.items())
        yield (
            f"{done.tried} rows were tried again; {done.fetched} are there now, in {len(done.retries)} "
            f"retry partitions{f'; failed again: {again}' if again else ''}"
        )
        yield "what is below acquire is to be done again: `neuclip run`"
    yield f"acquire  {report.key}  {report.manifest.ledger.describe()}"


def takedown_lines(report: TakedownReport) -> Iterator[str]:
    """Yield the lines of `neuclip takedown` before the table of places."""
    if report.is_trial:
        yield f"a trial: {report.rows} rows and {report.images} images would go, nothing was changed"
    else:
        yield f"{report.rows} rows taken down, {report.images} images erased, {len(report.erased)} folders changed"
    for record in report.records:
        yield f"record  {record}"
    refused = "" if report.is_trial else ", refused from now on"
    yield from _listed(f"not found at this root{refused}", report.not_found)
    yield from _listed("taken down before", report.taken_down_before)
    yield from _listed(
        "adopted tars that still hold images, which are not ours to change", report.not_ours
    )
    yield from _listed(
        "training runs that never ended, which may have been made with the pairs", report.unfinished
    )
    if report.contained:
        yield ""
        yield "These folders were made with the pairs. What stays in them goes only with the folder:"


def takedown_end(report: TakedownReport) -> Iterator[str]:
    """Yield the lines after the table."""
    if report.contained:
        yield ""
        yield (
            "`neuclip run` with the recipe makes everything anew without the pairs; after it, remove the folders above "
            "from which something must go. Weights cannot be made to forget: train anew. Copies in caches of machines "
            "(NEUCLIP_CACHE), backups and old versions of a bucket are not reached."
        )


def places_table(report: TakedownReport) -> Table:
    """Return the table of folders that were made with the pairs."""
    table = Table(
        "stage", "pairs", "stays", "folder", box=None, pad_edge=False, header_style="bold"
    )
    table.columns[1].justify = "right"
    table.columns[3].overflow = "fold"
    for place in report.contained:
        table.add_row(place.stage, str(place.pairs), place.stays, escape(place.uri))
    return table


def _listed(what: str, entries: list[str]) -> Iterator[str]:
    if not entries:
        return
    yield f"{what} ({len(entries)}):"
    yield from (f"  {entry}" for entry in entries[:_MOST_SHOWN])
    if len(entries) > _MOST_SHOWN:
        yield f"  and {len(entries) - _MOST_SHOWN} more; --json lists all"
