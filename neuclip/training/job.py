"""What the stage hands to the training processes, as one JSON file, and what they answer beside it."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from neuclip.loading.shown import Shown
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.uris import is_local, local_part
from neuclip.training.config import TrainConfig

CHECKPOINTS = "checkpoints"
JOB = "job.json"
RESULT = "result.json"
ERROR = "error.json"
PROGRESS_MARK = "@progress "


class TrainJob(BaseModel):
    """One training run, the same on every machine; what is local is found by each machine for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainConfig
    seed: int
    train_key: str
    index_uri: str
    shard_uri: str
    text_encoder_uri: str | None = None
    """Of a recipe whose text tower reads features: the stage that made them."""
    run_uri: str
    """The stage's own folder, for checkpoints and metrics."""

    @property
    def run_folder(self) -> Path:
        """This machine's folder for checkpoints and metrics: the stage's own, or a copy of it in the cache."""
        if is_local(self.run_uri):
            return local_part(self.run_uri)
        return cache_folder() / "runs" / hashlib.sha256(self.run_uri.encode()).hexdigest()[:32]

    @property
    def mirror_uri(self) -> str | None:
        """Where the run folder is copied to at every checkpoint, for a root in object storage."""
        return None if is_local(self.run_uri) else self.run_uri


class TrainResult(BaseModel):
    """What a finished run says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    samples: int
    samples_visited: int
    samples_seen: int
    corrupt: list[int]
    """Sample ids that do not decode."""
    passed_over: list[int]
    """Steps (0-based) whose batches moved nothing."""
    never_used: int
    """Samples that decode and that only batches passed over have held."""
    texts: dict[str, Shown]
    """By view: the texts of the batches that moved the weights."""
    positions: list[str]
    """What was done to tables of positions, in words."""
    collapse: str
    """What was found of a collapse of the features, in words; empty if nothing was."""
    resumed_at: int
    final_loss: float | None
    """Nats; None if the last batch was passed over."""


class ChildFailure(BaseModel):
    """An error of a training process, by class name, for the stage to raise as its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    message: str
