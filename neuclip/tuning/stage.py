"""The stage text_encoder: it stands where models are trained, since it may tune the encoder first."""

from collections.abc import Collection

from neuclip.stages.keys import fingerprint
from neuclip.stages.stage import Erasures, Estimate, Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.text_encoder.config import STAGE_VERSION, EncodingConfig, TextEncoderConfig

_SUFFIXES = (".json", ".safetensors")


def _run(job: Job[TextEncoderConfig], workspace: Workspace) -> Outcome:
    from neuclip.text_encoder.run import commit_encoder, run_text_encoder

    config, captions = job.config, job.above["caption"]
    if config.tune is None:
        encoder = commit_encoder(config, job.root)
    else:
        from neuclip.tuning.tuned_encoder import commit_tuned

        encoder = commit_tuned(
            config,
            config.tune,
            caption_uri=captions,
            root=job.root,
            seed=job.seed,
            progress=job.progress,
        )
    return run_text_encoder(
        config,
        root=job.root,
        caption_uri=captions,
        encoder_uri=encoder,
        workspace=workspace,
        progress=job.progress,
        pool=job.pool,
        force=job.force,
    )


def _inputs(config: TextEncoderConfig) -> dict[str, str]:
    from neuclip.text_encoder.folder import encoder_files

    encoder_files(config.folder)  # a folder that cannot be used says so before it is hashed
    return {"encoder folder": fingerprint(config.folder, _SUFFIXES)}


def _check(config: TextEncoderConfig) -> None:
    """Refuse a folder that cannot be used, and features of another width than the text tower reads."""
    from neuclip.text_encoder.folder import require_settings, require_width

    found = require_settings(config.folder, config)
    if isinstance(config, EncodingConfig) and config.expected is not None:
        require_width(found, config.expected, config.folder)


def _estimate(job: Job[TextEncoderConfig]) -> Estimate:
    from neuclip.text_encoder.estimate import estimate_features

    return estimate_features(job.config, root=job.root, caption_uri=job.above["caption"])


def _erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.text_encoder.erase import find_features

    return find_features(stage_uri, uids)


TEXT_ENCODER = Stage(
    name="text_encoder",
    version=STAGE_VERSION,
    purpose="Encode the texts by a language model, for a text tower to train on.",
    run=_run,
    above=("caption",),
    is_optional=True,
    is_seeded=True,
    inputs=_inputs,
    has_progress=True,
    check=_check,
    estimate=_estimate,
    trace=Trace(
        stays="the weights of the encoder, if it was tuned on their texts; the features were erased",
        through="caption",
    ),
    erasures=_erasures,
)
