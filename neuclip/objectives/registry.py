"""The objectives by name.

An objective is a section in `config`, whose `name` is that of the module with its class.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from neuclip.distributed.world import World
from neuclip.foundation.config import Section
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.foundation.modules import the_class_in
from neuclip.foundation.names import in_known_case
from neuclip.objectives.config import ObjectiveConfig
from neuclip.objectives.objective import Objective

_ADAPTER: TypeAdapter[Section] = TypeAdapter(ObjectiveConfig)
_SECTIONS = {
    section.model_fields["name"].default: section
    for section in get_args(get_args(ObjectiveConfig)[0])
}
KNOWN = tuple(_SECTIONS)


def parse(config: Mapping[str, Any]) -> Section:
    """Validate the recipe section of an objective.

    Raises:
        ConfigError: if the name is unknown or a field does not fit.
    """
    name = in_known_case(str(config.get("name")), KNOWN)
    if name not in KNOWN:
        raise ConfigError(
            f"objective.name is {name!r}; known are {', '.join(KNOWN)}.{nearest(name, KNOWN)}"
        )
    try:
        return _ADAPTER.validate_python({**config, "name": name})
    except ValidationError as error:
        raise ConfigError(f"objective: {error}") from error


def build(
    config: Mapping[str, Any] | Section,
    *,
    feature_dim: int,
    num_samples: int,
    seed: int = 0,
    world: World | None = None,
) -> Objective:
    """Make an objective, on the world's device.

    Args:
        config: its recipe section, validated or raw; `{"name": "neuclip"}` takes all defaults.
        feature_dim: width of the features.
        num_samples: pairs in the data set; sample ids are below it for objectives with state per
            sample, and it tells all how long an epoch is.
        seed: of random initial state.
        world: ranks that share the global batch; none = one process on the CPU.

    Raises:
        ConfigError: if the name is unknown or a field does not fit.
    """
    world = world or World.single()
    section = parse(config) if isinstance(config, Mapping) else config
    objective_class = _class_of(section.model_dump()["name"])
    objective = objective_class(
        section, feature_dim=feature_dim, num_samples=num_samples, seed=seed, world=world
    )
    return objective.to(world.device)


def _class_of(name: str) -> Any:  # noqa: ANN401  # its constructor takes its own section
    return the_class_in(f"neuclip.objectives.{name}", Objective)
