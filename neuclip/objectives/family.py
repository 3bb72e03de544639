"""The objectives by name."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.objectives.config import NeuClipConfig, ObjectiveConfig, OpenClipConfig
from neuclip.objectives.neuclip import NeuClip
from neuclip.objectives.objective import Objective
from neuclip.objectives.openclip import OpenClip

KNOWN = ("openclip", "neuclip")

_ADAPTER: TypeAdapter[OpenClipConfig | NeuClipConfig] = TypeAdapter(ObjectiveConfig)


def parse(config: Mapping[str, Any]) -> OpenClipConfig | NeuClipConfig:
    """Validate the recipe section of an objective.

    Raises:
        ConfigError: if the name is unknown or a field does not fit.
    """
    name = config.get("name")
    if name not in KNOWN:
        raise ConfigError(
            f"objective.name is {name!r}; known are {', '.join(KNOWN)}.{nearest(str(name), KNOWN)}"
        )
    try:
        return _ADAPTER.validate_python(dict(config))
    except ValidationError as error:
        raise ConfigError(f"objective: {error}") from error


def build(
    config: Mapping[str, Any] | OpenClipConfig | NeuClipConfig,
    *,
    feature_dim: int,
    num_samples: int,  # noqa: ARG001
    seed: int = 0,  # noqa: ARG001
    world: World | None = None,
) -> Objective:
    """Make an objective, on the world's device.

    Args:
        config: its recipe section, validated or raw.
        feature_dim: width of the features.
        num_samples: pairs in the data set, for objectives with state per sample; none so far.
        seed: for objectives with random state; none so far.
        world: ranks that share the global batch; none = one process on the CPU.

    Raises:
        ConfigError: if the name is unknown or a field does not fit.
    """
    world = world or World.single()
    section = parse(config) if isinstance(config, Mapping) else config
    objective: Objective
    if isinstance(section, OpenClipConfig):
        objective = OpenClip(section, feature_dim=feature_dim, world=world)
    else:
        objective = NeuClip(section, feature_dim=feature_dim, world=world)
    return objective.to(world.device)
