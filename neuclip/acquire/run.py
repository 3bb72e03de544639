"""The acquire stage: URL table in, partitions of images and outcome rows out."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.acquire.download import download
from neuclip.acquire.partitions import Partition, plan
from neuclip.acquire.parts import STAGE, Parts
from neuclip.acquire.raw import COLUMNS
from neuclip.acquire.reasons import likely_cause
from neuclip.acquire.reconcile import add_messages
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.cache import cache_folder

PARTITIONS_FILE = "partitions.parquet"
"""In the stage's folder, one row for each partition in order: part, file, first_row, rows, out."""


def run_acquire(
    config: AcquireConfig, *, root: str, workspace: Workspace, progress: Progress, force: bool
) -> Outcome:
    """Fetch every row of the URL table that no committed partition has, and account for all of them.

    Each partition is committed as soon as it is fetched, so a run that is ended loses only what it had
    not finished.

    Args:
        force: fetch committed partitions again too.
    Raises: DataError: if the table is wrong or too many rows failed. ChildError: if img2dataset failed.
        IntegrityError: if its output does not add up.
    """
    progress(STAGE, done=0, total=1, note="reading the URL table")
    planned = plan(config, stage_version=STAGE_VERSION, folder=workspace.scratch / "plan")
    parts = Parts(
        planned,
        config,
        root=root,
        folder=workspace.scratch / "parts",
        progress=progress,
        force=force,
    )
    missing = parts.missing()
    num_reused = len(planned) - len(missing)
    for partition in missing:
        if not partition.num_to_fetch:
            parts.finish(partition, None)
    parts.report()
    if to_fetch := [partition for partition in missing if partition.num_to_fetch]:
        download(
            to_fetch,
            config,
            folder=workspace.scratch / "img2dataset",
            log_path=_log_path(to_fetch),
            on_shard=parts.finish,
            on_images=parts.report,
        )
    ledger = add_ledgers(parts.ledgers[partition.key] for partition in planned)
    _check_failed_share(ledger, config)
    parts.commit_held()
    _write_index(planned, parts.ledgers, workspace.output / PARTITIONS_FILE)
    for partition in planned:
        if partition.columns_path is not None:
            (workspace.output / COLUMNS).mkdir(exist_ok=True)
            partition.columns_path.replace(workspace.output / COLUMNS / f"{partition.key}.parquet")
    summary = {
        "partitions": len(planned),
        "reused": num_reused,
        "reasons": ledger.dropped,
        "messages": add_messages(parts.messages),
    }
    return Outcome(ledger=ledger, summary=summary, parts=[partition.key for partition in planned])


def _log_path(partitions: Sequence[Partition]) -> Path:
    """Choose a place that outlives the scratch folder: an error message points there."""
    path = cache_folder() / "logs" / f"{STAGE}-{partitions[0].key}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_failed_share(ledger: Ledger, config: AcquireConfig) -> None:
    failed = ledger.entered - ledger.out
    if failed <= config.max_failed_share * ledger.entered:
        return
    top = ", ".join(f"{count} {reason}" for reason, count in list(ledger.dropped.items())[:3])
    raise DataError(
        f"{failed} of {ledger.entered} rows of {config.source} failed, {failed / ledger.entered:.0%}, more than "
        f"acquire.max_failed_share={config.max_failed_share:g} allows: {top}. "
        f"The likely cause: {likely_cause(ledger.dropped)}. "
        "The next run fetches again the partitions in which the network alone failed that many; "
        "for the others too, run `--only acquire --force`"
    )


def _write_index(planned: Sequence[Partition], ledgers: dict[str, Ledger], path: Path) -> None:
    rows = [
        {
            "part": partition.key,
            "file": partition.file,
            "first_row": partition.first_row,
            "rows": partition.num_rows,
            "out": ledgers[partition.key].out,
        }
        for partition in planned
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
