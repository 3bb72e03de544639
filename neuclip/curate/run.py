"""Judge every acquired pair: one verdict row each, kept or dropped by the first rule that fails."""

from neuclip.acquire.raw import rows_paths
from neuclip.curate.config import CurateConfig
from neuclip.curate.rules import verdict_query
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.tables import connect, write_parquet

VERDICTS = "verdicts.parquet"


def run_curate(
    config: CurateConfig, *, acquire_uri: str, workspace: Workspace, progress: Progress
) -> Outcome:
    """Write `verdicts.parquet`: uid, kept, reason; in the order of the input.

    The ledger's `in` is the pairs that acquire brought home, counted from its tables and not from the
    verdicts, so that a verdict lost on the way unbalances the ledger.

    Raises: DataError: if no pair is kept.
    """
    rows = [str(path) for path in rows_paths(acquire_uri)]
    progress("curate", done=0, total=1, note=f"judging {len(rows)} partitions")
    target = workspace.output / VERDICTS
    with connect(workspace.scratch) as connection:
        write_parquet(connection, verdict_query(config), target, {"rows": rows})
        counts = connection.execute(
            "SELECT coalesce(reason, ''), count(*) FROM read_parquet($1) GROUP BY 1", [str(target)]
        ).fetchall()
        entered = connection.execute(
            "SELECT count(*) FROM read_parquet($1) WHERE status = 'success'", [rows]
        ).fetchall()[0][0]
    reasons = {str(reason): int(count) for reason, count in counts}
    kept = reasons.pop("", 0)
    ledger = make_ledger(int(entered), kept, reasons)
    if kept == 0:
        raise DataError(
            f"curate kept none of {entered} pairs ({ledger.describe()}); loosen the rules of section `curate`"
        )
    progress("curate", done=1, total=1, note=ledger.describe())
    return Outcome(ledger=ledger)
