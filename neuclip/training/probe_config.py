"""How the log-normalizers are measured while a run goes on."""

from typing import Annotated

from pydantic import Field, StringConstraints

from neuclip.foundation.config import Section
from neuclip.objectives.config import ObjectiveConfig

ObserverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


class ProbeConfig(Section):
    """How often the log-normalizers that the objective uses are held against exact ones."""

    every_steps: int = Field(default=500, ge=1, description="steps between two measurements")
    samples: int = Field(
        default=4096, ge=16, description="samples of the training set that stand for the whole"
    )
    anchors: int = Field(
        default=512, ge=2, description="of these, how many the normalizers are compared for"
    )
    observers: dict[ObserverName, ObjectiveConfig] = Field(
        default={},
        description="further objectives by name that watch the run's features and are measured "
        "like its own; each costs a step of its own",
    )
