"""The caption stage."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from neuclip.captions.config import STAGE_VERSION, CaptionConfig
from neuclip.captions.files import CAPTIONS
from neuclip.stages.stage import Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told


def _run(job: Job[CaptionConfig], workspace: Workspace) -> Outcome:
    from neuclip.captions.run import run_caption

    return run_caption(
        job.config,
        acquire_uri=job.above["acquire"],
        curate_uri=job.above["curate"],
        workspace=workspace,
        progress=job.progress,
    )


def _add_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    from neuclip.stages.views import add_file

    if "captions" in mentioned:
        add_file(connection, "captions", uri, CAPTIONS)


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.captions.story import tell

    return tell(pair, uri)


CAPTION = Stage(
    name="caption",
    version=STAGE_VERSION,
    purpose="Gather the captions of the kept pairs.",
    run=_run,
    above=("acquire", "curate"),
    fed_by="curate",
    trace=Trace(stays="the captions, in captions.parquet", table=CAPTIONS),
    views=Views(("captions",), _add_views),
    tell=_tell,
)
