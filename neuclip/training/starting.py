"""Which model a run starts from: a folder, a published key of the root, or the model that was published last."""

import re
from typing import Any

from neuclip.foundation.errors import ConfigError
from neuclip.stages.choices import Chosen
from neuclip.stages.keys import KEY_LENGTH
from neuclip.stages.manifest import Manifest, committed_manifests, is_committed
from neuclip.storage.uris import absolute, join
from neuclip.towers.files import fingerprint_model
from neuclip.towers.initial_config import LATEST
from neuclip.training.config import TrainConfig

_PUBLISHED = "publish"
_MODEL = "model"
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


def choose_initial(config: TrainConfig, root: str, kept: str | None) -> Chosen[TrainConfig]:
    """Return the section with the place of the model folder in `initial.model`.

    Args:
        kept: the published key that `latest` stood for when this run began first.
    Raises: ConfigError: if there is no such model at the root.
    """
    if config.initial is None:
        return Chosen(config)
    model, choice = config.initial.model, None
    if model == LATEST:
        choice = model = kept or _newest(root)
    if _KEY.fullmatch(model):
        folder = join(root, _PUBLISHED, model)
        if not is_committed(folder):
            raise ConfigError(
                f"train.initial.model is {model}, and {folder} is not published; expected the key of a publish "
                f"stage of this root, a model folder (./{model} for one of this name), or latest"
            )
        model = join(folder, _MODEL)
    initial = config.initial.model_copy(update={"model": absolute(model)})
    return Chosen(config.model_copy(update={"initial": initial}), choice)


def initial_inputs(config: TrainConfig) -> dict[str, str]:
    """Return the fingerprint of the initial weights' content, where there are any."""
    if config.initial is None:
        return {}
    return {"initial": fingerprint_model(config.initial.model)}


def initial_record(config: TrainConfig, root: str) -> dict[str, Any]:
    """Return what a manifest says of the initial weights: stage and key of the folder, if it is of this root."""
    if config.initial is None:
        return {}
    model, above = config.initial.model, f"{absolute(root)}/"
    stage, key, *_ = (
        [*model.removeprefix(above).split("/"), None] if model.startswith(above) else [None, None]
    )
    made_by = {"stage": stage, "key": key}
    return {"initial": {**made_by, "content": fingerprint_model(model), **config.initial.keyed()}}


def began_with(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the folder of this root that a training began with: it hands on what that model learnt."""
    initial = manifest.summary.get("initial", {})
    return [(initial["stage"], initial["key"])] if initial.get("key") else []


def _newest(root: str) -> str:
    published = committed_manifests(join(root, _PUBLISHED))
    if not published:
        raise ConfigError(
            f"train.initial.model is latest, and nothing was published at {root}; run the recipe once without "
            "train.initial, or name a model folder"
        )
    return published[0].key
