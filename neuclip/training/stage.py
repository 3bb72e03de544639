"""The train stage."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from neuclip.stages.stage import Checks, Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.training.config import STAGE_VERSION, TrainConfig
from neuclip.training.starting import began_with, choose_initial, initial_inputs, initial_record
from neuclip.training.tokenizer_check import check_tokenizer, table_inputs

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told


def _run(job: Job[TrainConfig], workspace: Workspace) -> Outcome:
    from neuclip.training.run import run_train

    return run_train(
        job.config,
        seed=job.seed,
        index_uri=job.above["index"],
        shard_uri=job.above["shard"],
        text_encoder_uri=job.above.get("text_encoder"),
        workspace=workspace,
        progress=job.progress,
        start=initial_record(job.config, job.root),
    )


def _inputs(config: TrainConfig) -> dict[str, str]:
    return initial_inputs(config) | config.model.inputs() | table_inputs(config)


def _check(config: TrainConfig) -> None:
    """Refuse a tokenizer, a text tower or tokens that could not be used."""
    check_tokenizer(config, config.model.files())


def _preflight(job: Job[TrainConfig]) -> Checks:
    from neuclip.training.job import TrainJob
    from neuclip.training.preflight import Preflight

    train_job = TrainJob(
        config=job.config,
        seed=job.seed,
        train_key=job.key,
        index_uri=job.above["index"],
        shard_uri=job.above["shard"],
        text_encoder_uri=job.above.get("text_encoder"),
        run_uri=job.uri,
    )
    return Preflight(train_job).all


def _add_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    """Put the per-sample statistics of this run in the place of those that the index has."""
    from neuclip.index.sample_index import STATISTICS
    from neuclip.stages.committed import holds_file
    from neuclip.stages.views import add_file

    if "sample_statistics" in mentioned and holds_file(uri, STATISTICS):
        add_file(connection, "sample_statistics", uri, STATISTICS)


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.training.story import tell

    return tell(pair, uri)


TRAIN = Stage(
    name="train",
    version=STAGE_VERSION,
    purpose="Train the towers.",
    run=_run,
    above=("shard", "text_encoder", "index"),
    inputs=_inputs,
    choose=choose_initial,
    check=_check,
    fed_by="index",
    is_seeded=True,
    resumes=True,
    has_progress=True,
    preflight=_preflight,
    trace=Trace(
        stays="the weights of its checkpoints, which learnt from the pairs",
        through="shard",
        began_with=began_with,
    ),
    views=Views((), _add_views),
    tell=_tell,
)
