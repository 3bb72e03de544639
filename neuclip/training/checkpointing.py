"""When a run saves, and what becomes of the checkpoints: written beside the training, pruned, mirrored."""

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from neuclip.checkpoint.folder import latest_checkpoint, prune_checkpoints, read_record
from neuclip.distributed.collectives import barrier, gather_objects
from neuclip.foundation.errors import StorageError
from neuclip.training.job import CHECKPOINTS, TrainJob
from neuclip.training.mirror import mirror_run
from neuclip.training.sample_statistics import BYTES_A_SAMPLE
from neuclip.training.saving import Snapshot, restore_trainer, take_snapshot, write_snapshot
from neuclip.training.trainer import Trainer

_GB = 1e9
_MOMENTS = {
    "adamw": 2,
    "lamb": 2,
    "lion": 1,
    "sgd": 1,
}  # numbers an optimiser keeps for each weight


class Checkpoints:
    """Saves a trainer by step, by the clock and when asked.

    The state is copied while training stands still; one thread of the main rank writes, verifies, prunes
    and mirrors it while training goes on. What fails there is raised at the next call.

    Args:
        score: measures the present weights on held-out pairs; None measures nothing.
    """

    def __init__(
        self, job: TrainJob, trainer: Trainer, *, score: Callable[[], float] | None
    ) -> None:
        self._job, self._config, self._trainer, self._score = job, job.config, trainer, score
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self.step, self._saved_time = trainer.step, time.monotonic()
        if trainer.world.is_main:
            require_disk(job.run_folder, trainer)

    @property
    def is_due_by_the_clock(self) -> bool:
        """Tell whether the recipe's minutes have passed; ranks may differ in it."""
        minutes = self._config.save_every_minutes
        return minutes is not None and time.monotonic() - self._saved_time > 60 * minutes

    @property
    def is_due_by_step(self) -> bool:
        """Tell whether the recipe names the present step; the last one of a phase always counts."""
        step = self._trainer.step
        return step % self._config.save_every_steps == 0 or step == self._trainer.phase.last

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, if it is known by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def score_if_due(self) -> float | None:
        """Return the recall of the present weights on held-out pairs where a scheduled save is due."""
        return self._score() if self._score is not None and self.is_due_by_step else None

    def save(self, *, score: float | None) -> None:
        """Copy the present state and begin to write it; every rank calls it.

        Raises: StorageError: if the checkpoint before this could not be written.
        """
        trainer = self._trainer
        self.wait()
        trainer.corrupt.update(*gather_objects(trainer.corrupt, trainer.world))
        snapshot = take_snapshot(
            trainer, train_key=self._job.train_key, scheduled=self.is_due_by_step, score=score
        )
        if snapshot is not None:
            self._writing = self._thread.submit(self._write, snapshot)
        self.step, self._saved_time = trainer.step, time.monotonic()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk and at the mirror.

        Raises: StorageError: if it cannot be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, snapshot: Snapshot) -> None:
        checkpoints, config = self._job.run_folder / CHECKPOINTS, self._config
        write_snapshot(snapshot, checkpoints)
        prune_checkpoints(
            checkpoints, keep_last=config.keep_checkpoints, keep_best=config.keep_best
        )
        mirror_run(self._job)


def latest_step(job: TrainJob) -> int:
    """Return the updates that the last checkpoint of a run has seen, 0 without one.

    Raises: CheckpointError: if it is broken or of another recipe.
    """
    latest = latest_checkpoint(job.run_folder / CHECKPOINTS, train_key=job.train_key)
    return 0 if latest is None else read_record(latest).step


def restore_latest(trainer: Trainer, job: TrainJob) -> bool:
    """Put a trainer where the last checkpoint of its run left it; return whether there is one.

    Raises: CheckpointError: if it is broken or of another recipe.
    """
    latest = latest_checkpoint(job.run_folder / CHECKPOINTS, train_key=job.train_key)
    if latest is not None:
        restore_trainer(trainer, latest)
    barrier(trainer.world)  # nobody writes before everybody has read
    return latest is not None


def require_disk(folder: Path, trainer: Trainer) -> str:
    """Refuse a disk that cannot hold the checkpoints that the recipe keeps; return what was found.

    Counted are those kept, one by the clock, and one that is being written.

    Raises: StorageError: saying how much is needed and what to change.
    """
    config = trainer.config
    folder.mkdir(parents=True, exist_ok=True)
    model = _bytes_of(trainer.towers.model.state_dict())
    learned = (p for p in trainer.encoders.parameters() if p.requires_grad)
    moments = sum(_MOMENTS[config.optimiser] * p.nbytes for p in learned)
    averages = model if config.ema_decay else 0
    objective = _bytes_of(trainer.objective.state_dict()) * trainer.world.size
    objective += _bytes_of(trainer.terms.state_dict())
    statistics = BYTES_A_SAMPLE * trainer.objective.num_samples if config.sample_statistics else 0
    one = 2 * model + moments + averages + objective + statistics
    needed = one * (config.keep_checkpoints + config.keep_best + 2)
    kept = _bytes_of_files(folder / CHECKPOINTS)
    free = shutil.disk_usage(folder).free
    if needed - kept > free:
        raise StorageError(
            f"checkpoints of {one / _GB:.3g} GB each need {needed / _GB:.3g} GB below {folder}, where "
            f"{free / _GB:.3g} GB are free; make room, or lower train.keep_checkpoints (now {config.keep_checkpoints})"
        )
    return f"a checkpoint is {one / _GB:.3g} GB, {free / _GB:.3g} GB are free"


def _bytes_of(state: Mapping[str, Any]) -> int:
    """Return the size of nested mappings of tensors, as an objective's state is."""
    return sum(
        _bytes_of(value) if isinstance(value, Mapping) else value.numel() * value.element_size()
        for value in state.values()
    )


def _bytes_of_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
