"""The acquire stage."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.stages.keys import fingerprint
from neuclip.stages.manifest import PARTS
from neuclip.stages.stage import Erasures, Job, Stage, Views
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join
from neuclip.table.config import TABLE_SUFFIXES

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told


def _inputs(config: AcquireConfig) -> dict[str, str]:
    if config.adopt is not None:
        from neuclip.adopt.shards import fingerprint_shards

        return {"shards": fingerprint_shards(config.adopt)}
    return {"table": fingerprint(config.source, TABLE_SUFFIXES)}


def _run(job: Job[AcquireConfig], workspace: Workspace) -> Outcome:
    """Fetch the URL table, or adopt the shards that are there."""
    return (_fetch if job.config.adopt is None else _adopt)(job, workspace)


def _adopt(job: Job[AcquireConfig], workspace: Workspace) -> Outcome:
    from neuclip.adopt.run import run_adopt

    return run_adopt(
        job.config,
        refused=job.config.refuse.refusals,
        max_failed_share=job.config.max_failed_share,
        root=job.root,
        workspace=workspace,
        progress=job.progress,
        pool=job.pool,
        force=job.force,
    )


def _fetch(job: Job[AcquireConfig], workspace: Workspace) -> Outcome:
    from neuclip.acquire.run import run_acquire

    force = job.force
    if not job.pool.is_here:
        from neuclip.acquire.shared import fetch_by_workers

        fetch_by_workers(
            job.config,
            root=job.root,
            stage_key=job.key,
            pool=job.pool,
            progress=job.progress,
            force=force,
        )
        force = False  # the workers have done all again
    return run_acquire(
        job.config, root=job.root, workspace=workspace, progress=job.progress, force=force
    )


def _erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.acquire.erase import erase_texts, find_texts

    return {
        (uri := join(stage_uri, PARTS, part)): partial(erase_texts, uri, uids)
        for part in find_texts(stage_uri, uids)
    }


def _add_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    from neuclip.acquired.views import add_rows, add_texts

    if "rows" in mentioned:
        add_rows(connection, uri)
    if "texts" in mentioned:
        add_texts(connection, uri)


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.acquired.story import tell

    return tell(pair, uri)


ACQUIRE = Stage(
    name="acquire",
    version=STAGE_VERSION,
    purpose="Fetch the images of the URL table.",
    run=_run,
    inputs=_inputs,
    is_revisable=True,
    has_progress=True,
    erasures=_erasures,
    views=Views(("rows", "texts"), _add_views),
    tell=_tell,
)
