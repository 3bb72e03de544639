"""The caption stage: it stands where the models are that may compare what is written with images."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from neuclip.captions.config import STAGE_VERSION, CaptionConfig
from neuclip.captions.imports import fingerprints
from neuclip.curate.scores import MODEL_SUFFIXES
from neuclip.generation.config import LocalModel
from neuclip.generation.model_folder import fingerprint_model
from neuclip.stages.keys import fingerprint
from neuclip.stages.loaded import Loaded
from neuclip.stages.stage import Erasures, Estimate, Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace

if TYPE_CHECKING:
    import duckdb

    from neuclip.captions.generated import Writing
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
        writings=_writings(job.config),
        pool=job.pool,
        force=job.force,
    )


def _writings(config: CaptionConfig) -> "list[Writing]":
    from neuclip.captions.generated import Similarity, Writing
    from neuclip.generation.backends import make_backend

    asked = config.similarity
    similarity: Loaded[Similarity] | None = None
    if asked is not None:
        from neuclip.scoring.similarity import ImageTextSimilarity  # loads torch

        similarity = Loaded(partial(ImageTextSimilarity, asked))
    weights = _inputs(config)
    return [
        Writing(
            step=step,
            model=config.models[step.model],
            weights=weights.get(f"model {step.model}", ""),
            backend=Loaded(partial(make_backend, config.models[step.model], step.sampling)),
            similarity=similarity,
            margin=0.0 if asked is None else asked.margin,
        )
        for step in config.generate
    ]


def _estimate(job: Job[CaptionConfig]) -> Estimate:
    if not job.config.generate:
        return {}
    from neuclip.captions.estimate import estimate_answers

    return estimate_answers(_writings(job.config), root=job.root, curate_uri=job.above["curate"])


def _inputs(config: CaptionConfig) -> dict[str, str]:
    """Return the fingerprints of what is imported, and of local models."""
    inputs = fingerprints(config.imports)
    inputs |= {
        f"model {name}": fingerprint_model(model)
        for name, model in config.models.items()
        if isinstance(model, LocalModel)
    }
    if config.similarity is not None:
        inputs["similarity model"] = fingerprint(config.similarity.model, MODEL_SUFFIXES)
    return inputs


def _erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.captions.erase import find_texts

    return find_texts(stage_uri, uids)


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
    purpose="Gather the texts of the kept pairs, and have models write others.",
    run=_run,
    inputs=_inputs,
    above=("acquire", "curate"),
    fed_by="curate",
    has_progress=True,
    estimate=_estimate,
    trace=Trace(stays="nothing: the texts were erased", through="curate"),
    erasures=_erasures,
    views=Views(("captions",), _add_views),
    tell=_tell,
)
