"""Partitions shared out over workers on this machine or others: what each is handed, and what it does with it.

Planned rows travel as files at the root: the table is read and cut once, so that all workers and the stage mean the
same partitions, and a worker needs to reach nothing but the root and the web. Whether a partition is done is known by
its commit record at the root alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.parts import Parts
from neuclip.acquire.run import fetch, plan_parts
from neuclip.acquired.partitions import STAGE
from neuclip.acquired.refusals import check_takedowns, takedowns_at
from neuclip.foundation.errors import ChildError
from neuclip.foundation.progress import Progress
from neuclip.stages.manifest import PARTS, is_committed
from neuclip.stages.part_work import said
from neuclip.stages.plans import plans_uri
from neuclip.stages.pool import Call, Failure, Pool
from neuclip.stages.scratch import scratch_folder
from neuclip.storage.files import get_file, put_file, remove_tree
from neuclip.storage.uris import join
from neuclip.table.plan import Partition

log = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class Planned:
    """A partition to fetch; its rows wait at the root under its key."""

    key: str
    file: str
    first_row: int
    num_rows: int
    num_to_fetch: int


@dataclass(frozen=True)
class Share:
    """What one worker is handed."""

    number: int
    plans_uri: str
    partitions: tuple[Planned, ...]

    @property
    def name(self) -> str:
        """What people know the worker by."""
        return f"worker-{self.number}"


def fetch_by_workers(
    config: AcquireConfig,
    *,
    root: str,
    stage_key: str,
    pool: Pool,
    progress: Progress,
    force: bool,
) -> None:
    """Fetch all partitions that are not there by a pool's workers; the stage then finds them committed.

    Raises: ChildError: naming the partitions of workers that failed; what was fetched is kept. DataError: as
        `run_acquire`.
    """
    taken_down = takedowns_at(root)
    shares = hand_out(config, root=root, stage_key=stage_key, progress=progress, force=force)
    log.info(describe_limits(config, len(shares)))
    try:
        waiting = fetch_shares(shares, config, root=root, pool=pool, progress=progress, force=force)
    finally:
        clear_plans(shares)
    check_takedowns(root, taken_down)
    if waiting:
        log.warning(
            "%d partitions look as if the network had been down; the stage fetches them again: %s",
            len(waiting),
            ", ".join(waiting),
        )


def fetch_shares(
    shares: Sequence[Share],
    config: AcquireConfig,
    *,
    root: str,
    pool: Pool,
    progress: Progress,
    force: bool,
) -> list[str]:
    """Fetch shares, each by a worker; return the keys of partitions that wait for the stage.

    Raises: ChildError: naming the partitions of workers that failed.
    """
    one = for_one_of(config, max(len(shares), 1))
    calls = [Call(share.name, partial(_fetch, share, one, root, force)) for share in shares]
    waiting: list[str] = []
    failed: dict[str, list[str]] = {}
    results = pool.do(calls, progress)
    for share in shares:
        result = next(results, None)
        if result is None or isinstance(result, Failure):
            why = "was not begun" if result is None else said(result.error)
            failed[f"{share.name}: {why}"] = unfinished(share, root=root, force=force)
        else:
            waiting += result
    if failed:
        raise failure(failed, of=sum(len(share.partitions) for share in shares))
    return waiting


def hand_out(
    config: AcquireConfig, *, root: str, stage_key: str, progress: Progress, force: bool
) -> list[Share]:
    """Plan acquire and share the partitions out that are to be fetched, so that each worker has about as many.

    Raises: DataError: as `run_acquire`.
    """
    plans = plans_uri(root, STAGE, stage_key)
    with scratch_folder(root) as scratch:
        parts = plan_parts(config, root=root, scratch=scratch, progress=progress, force=force)
        to_fetch = [partition for partition in parts.missing() if partition.num_to_fetch]
        remove_tree(plans)
        for partition in to_fetch:
            put_file(partition.plan_path, _plan_uri(plans, partition.key))
    planned = [Planned(p.key, p.file, p.first_row, p.num_rows, p.num_to_fetch) for p in to_fetch]
    workers = min(config.scale.workers, len(planned))
    return [Share(number + 1, plans, tuple(planned[number::workers])) for number in range(workers)]


def for_one_of(config: AcquireConfig, workers: int) -> AcquireConfig:
    """Return the recipe of one worker: what one host is asked is shared out, for they do not know of each other."""
    egress = config.egress
    gentle = {
        "host_concurrency": max(1, egress.host_concurrency // workers),
        "host_requests_per_s": egress.host_requests_per_s / workers,
    }
    return config.model_copy(update={"egress": egress.model_copy(update=gentle)})


def describe_limits(config: AcquireConfig, workers: int) -> str:
    """Say how gently workers ask one host together."""
    if not workers:
        return "every partition is there, so there is nothing to share out"
    one = for_one_of(config, workers).egress
    at_once = one.host_concurrency * workers
    rate = one.host_requests_per_s
    often = f"{rate:g} times a second" if rate else "as often as it likes"
    told = (
        f"{workers} workers share the limits of a host out: each asks it {often} and {one.host_concurrency} at a time, "
        f"all together {at_once} at a time"
    )
    limit = config.egress.host_concurrency
    if at_once <= limit:
        return told
    return f"{told}, more than acquire.egress.host_concurrency={limit}, since each must ask one at least"


def fetch_share(
    share: Share, config: AcquireConfig, *, root: str, progress: Progress, force: bool
) -> list[str]:
    """Fetch the partitions of a share and commit each at the root; those that are committed are not fetched again.

    Args:
        config: of one worker, see `for_one_of`.
        force: fetch committed partitions again too.
    Returns: keys of partitions that are not committed, because it looks as if the network had been down: the stage
        fetches them again and judges the table as a whole.
    Raises: ChildError: if img2dataset failed; partitions that were finished are kept.
    """
    with scratch_folder(root) as scratch:
        partitions = [_partition(planned, share, scratch / "plan") for planned in share.partitions]
        parts = Parts(
            partitions,
            config,
            root=root,
            folder=scratch / "parts",
            progress=progress,
            force=force,
        )
        missing = parts.missing()
        log.info("%s fetches %d of %d partitions", share.name, len(missing), len(partitions))
        fetch(missing, config, scratch=scratch, on_shard=parts.finish, on_fetched=parts.report)
        return [partition.key for partition in partitions if partition.key not in parts.committed]


def _fetch(
    share: Share,
    config: AcquireConfig,
    root: str,
    force: bool,  # noqa: FBT001  # bound by place
    progress: Progress,
) -> list[str]:
    return fetch_share(share, config, root=root, progress=progress, force=force)


def unfinished(share: Share, *, root: str, force: bool) -> list[str]:
    """Return the keys of a share's partitions that are not committed at the root; by force, all of them."""
    if force:
        return [planned.key for planned in share.partitions]
    uris = {planned.key: join(root, STAGE, PARTS, planned.key) for planned in share.partitions}
    return [key for key, uri in uris.items() if not is_committed(uri)]


def failure(reasons: dict[str, list[str]], *, of: int) -> ChildError:
    """Return the error of workers that failed: what each said, with the partitions it did not fetch."""
    said = "; ".join(
        f"{why} (partitions {', '.join(keys[:_SHOWN])}{', ...' * (len(keys) > _SHOWN)})"
        for why, keys in reasons.items()
    )
    count = sum(len(keys) for keys in reasons.values())
    return ChildError(
        f"{count} of {of} partitions were not fetched: {said}. The others are kept: run again"
    )


def clear_plans(shares: Sequence[Share]) -> None:
    """Remove the planned rows from the root."""
    for uri in {share.plans_uri for share in shares}:
        remove_tree(uri)


def _plan_uri(plans: str, key: str) -> str:
    return join(plans, f"{key}.parquet")


def _partition(planned: Planned, share: Share, folder: Path) -> Partition:
    path = folder / f"{planned.key}.parquet"
    get_file(_plan_uri(share.plans_uri, planned.key), path)
    return Partition(
        key=planned.key,
        file=planned.file,
        first_row=planned.first_row,
        num_rows=planned.num_rows,
        num_to_fetch=planned.num_to_fetch,
        plan_path=path,
    )
