"""What the stage hands to the training processes, as one JSON file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from neuclip.training.config import TrainConfig

CHECKPOINTS = "checkpoints"
RESULT = "result.json"
ERROR = "error.json"
PROGRESS_MARK = "@progress "


class TrainJob(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainConfig
    seed: int
    train_key: str
    index_uri: str
    shard_uri: str
    run_folder: Path
    """Local folder for checkpoints and metrics; the stage's own folder where the root is local."""
    mirror_uri: str | None
    """Where the run folder is copied to at every checkpoint, for a root in object storage."""
    exchange_folder: Path
    """Local folder for result and error."""


class TrainResult(BaseModel):
    """What a finished run says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    samples: int
    samples_visited: int
    samples_seen: int
    corrupt: list[int]
    resumed_at: int
    final_loss: float


class ChildFailure(BaseModel):
    """An error of a training process, by class name, for the stage to raise as its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    message: str
