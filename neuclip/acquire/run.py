"""The acquire stage: URL table in, partitions of images and outcome rows out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.download import OnFetched, Shard, download
from neuclip.acquire.parts import Parts
from neuclip.acquire.retries import (
    attempts_ledger,
    find_attempts,
    in_rounds,
    total_ledger,
)
from neuclip.acquired.listing import PARTITIONS_FILE, Listed, known_slices, write_listing
from neuclip.acquired.partitions import COLUMNS, PARTITION_VERSION, ROWS, STAGE
from neuclip.acquired.reasons import likely_cause
from neuclip.acquired.refusals import check_takedowns, takedowns_at
from neuclip.acquired.rows import add_messages
from neuclip.acquired.texts import count_texts
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.manifest import PARTS, Manifest
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.uris import join
from neuclip.table.plan import Partition, plan

log = logging.getLogger(__name__)

OnShard = Callable[[Partition, Shard | None], None]


def run_acquire(
    config: AcquireConfig, *, root: str, workspace: Workspace, progress: Progress, force: bool
) -> Outcome:
    """Fetch every row of the URL table that no committed partition has, and account for all of them.

    Each partition is committed as soon as it is fetched, so a run that is ended loses only what it had
    not finished. What `neuclip repair` fetched again of a partition is taken over with it.

    Args:
        force: fetch committed partitions again too.
    Raises: DataError: if the table is wrong, too many rows failed, or a takedown at this root was not finished.
        ChildError: if img2dataset failed. IntegrityError: if its output does not add up.
    """
    taken_down = takedowns_at(root)
    parts = plan_parts(config, root=root, scratch=workspace.scratch, progress=progress, force=force)
    missing = parts.missing()
    num_reused = len(parts.planned) - len(missing)
    parts.report()
    fetch(
        missing, config, scratch=workspace.scratch, on_shard=parts.finish, on_fetched=parts.report
    )
    check_takedowns(root, taken_down)
    acquire_uri = join(root, STAGE)
    _check_failed_share(_ledger(parts, acquire_uri), parts.failed_hosts(), config)
    parts.commit_held()
    return assemble(parts, acquire_uri, workspace, num_reused=num_reused, force=force)


def plan_parts(
    config: AcquireConfig, *, root: str, scratch: Path, progress: Progress, force: bool
) -> Parts:
    """Read the table and cut it into partitions, along what earlier runs at the root have cut."""
    progress(STAGE, done=0, total=1, note="reading the URL table")
    planned = plan(
        config,
        fetch={"stage_version": PARTITION_VERSION, "settings": config.fetch_settings()},
        partition_rows=config.partition_rows,
        refused=config.refuse.refusals,
        folder=scratch / "plan",
        known=known_slices(join(root, STAGE)),
        taken_down=takedowns_at(root),
    )
    return Parts(
        planned, config, root=root, folder=scratch / "parts", progress=progress, force=force
    )


def fetch(
    partitions: Sequence[Partition],
    config: AcquireConfig,
    *,
    scratch: Path,
    on_shard: OnShard,
    on_fetched: OnFetched,
) -> None:
    """Fetch partitions; hand over each as soon as it is done, those without a row to fetch at once."""
    for partition in partitions:
        if not partition.num_to_fetch:
            on_shard(partition, None)
    if to_fetch := [partition for partition in partitions if partition.num_to_fetch]:
        if not (config.egress.contact or config.egress.allow_hosts):
            log.warning(
                "acquire.egress.contact is not set, so hosts do not learn whom to write to before they block you; "
                "set an e-mail address or a page"
            )
        download(
            to_fetch,
            config,
            folder=scratch / "img2dataset",
            log_path=_log_path(to_fetch),
            on_shard=on_shard,
            on_fetched=on_fetched,
        )


def assemble(
    parts: Parts, acquire_uri: str, workspace: Workspace, *, num_reused: int, force: bool
) -> Outcome:
    """Write what the stage says of its partitions: they first, in the order of the table, retries after them."""
    all_attempts = find_attempts(acquire_uri, [parts.committed[part.key] for part in parts.planned])
    texts = parts.commit_texts(force=force)
    partition_of = {partition.key: partition for partition in parts.planned}
    retries = list(in_rounds(all_attempts))
    ledger = total_ledger(acquire_uri, all_attempts)
    listed = [
        _listed(partition, parts.committed, of_part.key)
        for partition, of_part in zip(parts.planned, texts, strict=True)
    ]
    for number, attempts, manifest in retries:
        base = partition_of[attempts.base.key]
        uids = _uids(join(acquire_uri, PARTS, manifest.key))
        listed.append(
            Listed(
                part=manifest.key,
                texts=parts.commit_texts_of_retry(base, uids, force=force).key,
                file=base.file,
                first_row=None,
                rows=manifest.ledger.entered,
                out=manifest.ledger.out,
                repairs=base.key,
                round=number,
            )
        )
        _write_columns(base, uids, workspace.output / COLUMNS / f"{manifest.key}.parquet")
    for partition in parts.planned:
        if partition.columns_path is not None:
            (workspace.output / COLUMNS).mkdir(exist_ok=True)
            partition.columns_path.replace(workspace.output / COLUMNS / f"{partition.key}.parquet")
    write_listing(listed, workspace.output / PARTITIONS_FILE)
    summary = {
        "partitions": len(parts.planned),
        "reused": num_reused,
        "retries": len(retries),
        "repaired": sum(manifest.ledger.out for _, _, manifest in retries),
        "reasons": ledger.dropped,
        "messages": add_messages(parts.messages),
        "texts": count_texts(texts),
    }
    return Outcome(ledger=ledger, summary=summary, parts=[row.part for row in listed])


def _listed(partition: Partition, committed: dict[str, Manifest], texts: str) -> Listed:
    return Listed(
        part=partition.key,
        texts=texts,
        file=partition.file,
        first_row=partition.first_row,
        rows=partition.num_rows,
        out=committed[partition.key].ledger.out,
        first_uid=partition.first_uid,
    )


def _uids(part_uri: str) -> list[str]:
    return pq.read_table(committed_file(part_uri, ROWS), columns=["uid"])["uid"].to_pylist()


def _write_columns(base: Partition, uids: list[str], target: Path) -> None:
    """Give a retry the kept columns of its rows; the first row of a uid is the one that was fetched."""
    if base.columns_path is None:
        return
    columns = pq.read_table(base.columns_path)
    place = {uid: number for number, uid in reversed(list(enumerate(columns["uid"].to_pylist())))}
    target.parent.mkdir(exist_ok=True)
    pq.write_table(columns.take([place[uid] for uid in uids]), target)


def _ledger(parts: Parts, acquire_uri: str) -> Ledger:
    """Return the ledger of a run of which some partitions may not be committed yet."""
    all_attempts = {
        attempts.base.key: attempts
        for attempts in find_attempts(acquire_uri, list(parts.committed.values()))
    }
    return add_ledgers(
        attempts_ledger(acquire_uri, all_attempts[key]) if key in all_attempts else ledger
        for key, ledger in ((part.key, parts.ledgers[part.key]) for part in parts.planned)
    )


def _log_path(partitions: Sequence[Partition]) -> Path:
    """Choose a place that outlives the scratch folder: an error message points there."""
    path = cache_folder() / "logs" / f"{STAGE}-{partitions[0].key}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_failed_share(
    ledger: Ledger, failed_hosts: dict[str, int], config: AcquireConfig
) -> None:
    failed = ledger.entered - ledger.out
    if failed <= config.max_failed_share * ledger.entered:
        return
    top = ", ".join(f"{count} {reason}" for reason, count in list(ledger.dropped.items())[:3])
    raise DataError(
        f"{failed} of {ledger.entered} rows of {config.source} failed, {failed / ledger.entered:.0%}, more than "
        f"acquire.max_failed_share={config.max_failed_share:g} allows: {top}. "
        f"The likely cause: {likely_cause(ledger.dropped, failed_hosts)}. "
        "The next run fetches again the partitions in which the network alone failed that many; "
        "for the others too, run `--only acquire --force`"
    )
