"""The `train.launch` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section


class LaunchConfig(Section):
    """Where the ranks of a run are started. Nothing here can change a result, so nothing is in a key."""

    processes: int = Field(
        default=1, ge=1, le=1024, description="processes on each machine, one for each GPU"
    )

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.processes
