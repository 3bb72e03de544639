"""The caption stage."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from neuclip.captions.config import STAGE_VERSION, CaptionConfig
from neuclip.stages.manifest import PARTS
from neuclip.stages.stage import Erasures, Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told


def _run(job: Job[CaptionConfig], workspace: Workspace) -> Outcome:
    from neuclip.captions.run import run_caption

    return run_caption(
        job.config,
        root=job.root,
        acquire_uri=job.above["acquire"],
        curate_uri=job.above["curate"],
        workspace=workspace,
        progress=job.progress,
        force=job.force,
    )


def _erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.captions.erase import erase_part, find_parts

    return {
        part: partial(erase_part, join(stage_uri, PARTS, part), uids)
        for part in find_parts(stage_uri, uids)
    }


def _add_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    from neuclip.captions.files import TEXTS, text_parts
    from neuclip.stages.committed import committed_file
    from neuclip.stages.views import add_table, dataset_of

    if "captions" in mentioned:
        parts = [part for parts in text_parts(uri).values() for part in parts]
        paths = [committed_file(part, TEXTS) for part in parts]
        add_table(connection, "captions", dataset_of(paths))


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.captions.story import tell

    return tell(pair, uri)


CAPTION = Stage(
    name="caption",
    version=STAGE_VERSION,
    purpose="Gather the texts of the kept pairs.",
    run=_run,
    above=("acquire", "curate"),
    fed_by="curate",
    has_progress=True,
    trace=Trace(stays="nothing: the texts were erased", through="curate"),
    erasures=_erasures,
    views=Views(("captions",), _add_views),
    tell=_tell,
)
