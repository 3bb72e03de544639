"""The training loop of one rank."""

import hashlib
import json
import math
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from neuclip.checkpoint.folder import latest_checkpoint, prune_checkpoints
from neuclip.distributed.collectives import all_gather, all_reduce_mean_, barrier, gather_objects
from neuclip.distributed.world import World
from neuclip.foundation.errors import CheckpointError, IntegrityError
from neuclip.index.reader import SampleTable, read_samples
from neuclip.loading.batches import load_batches
from neuclip.loading.order import BatchOrder
from neuclip.loading.samples import Batch, ShardSamples
from neuclip.objectives.family import build
from neuclip.towers.model import Towers, create_towers
from neuclip.towers.transforms import training_image
from neuclip.training.config import TrainConfig
from neuclip.training.job import CHECKPOINTS, PROGRESS_MARK, TrainJob, TrainResult
from neuclip.training.metrics import MetricsLog
from neuclip.training.mirror import mirror_run
from neuclip.training.probe import NormalizerProbe
from neuclip.training.saving import restore_trainer, save_trainer, shared_state
from neuclip.training.trainer import Forward, Trainer


def train(job: TrainJob, world: World) -> TrainResult:
    """Train from the last checkpoint, or from the start, to the end.

    Raises: CheckpointError, IntegrityError, NumericsError: see the parts.
    """
    config = job.config
    table = read_samples(job.index_uri)
    order = BatchOrder(
        shard_sizes(table), seed=job.seed, streams=config.streams, global_batch=config.global_batch
    )
    total_steps = max(1, math.ceil(config.epochs * order.count / config.global_batch))
    towers = create_towers(config.model, seed=job.seed, device=world.device)
    objective = build(
        config.objective,
        feature_dim=towers.embed_dim,
        num_samples=order.count,
        seed=job.seed,
        world=world,
    )
    trainer = Trainer(
        towers, objective, config, seed=job.seed, total_steps=total_steps, world=world
    )
    checkpoints = job.run_folder / CHECKPOINTS
    latest = latest_checkpoint(checkpoints, train_key=job.train_key)
    if latest is not None:
        restore_trainer(trainer, latest)
    barrier(world)  # nobody writes before everybody has read
    samples = training_samples(config, table, towers, shard_folder=job.shard_folder, seed=job.seed)
    return _Run(job, world, trainer, samples, order).to_the_end()


def shard_sizes(table: SampleTable) -> np.ndarray:
    """Return the number of samples in each shard."""
    return np.bincount(table.shard, minlength=len(table.shards)).astype(np.int64)


def training_samples(
    config: TrainConfig, table: SampleTable, towers: Towers, *, shard_folder: Path, seed: int
) -> ShardSamples:
    """Return the training samples with the transform of a recipe."""
    px, mean, std, scale = towers.image_px, towers.mean, towers.std, config.crop_scale
    return ShardSamples(
        shard_folder,
        table,
        transform=lambda image, draw: training_image(
            image, draw, image_px=px, mean=mean, std=std, scale=scale
        ),
        tokenize=towers.tokenize,
        caption_sources=config.caption_sources,
        seed=seed,
    )


class _Run:
    """The loop and what it keeps from step to step."""

    def __init__(
        self,
        job: TrainJob,
        world: World,
        trainer: Trainer,
        samples: ShardSamples,
        order: BatchOrder,
    ) -> None:
        self.job, self.config, self.world, self.trainer, self.order = (
            job,
            job.config,
            world,
            trainer,
            order,
        )
        self.samples = samples
        self.resumed_at = trainer.step
        probe = self.config.probe
        self.probe = (
            NormalizerProbe(probe, samples, count=order.count, seed=job.seed) if probe else None
        )
        self.log = MetricsLog(job.run_folder, resumed_at=trainer.step) if world.is_main else None
        self.corrupt = trainer.corrupt
        self.loss = math.nan
        self.asked_to_stop = False
        self.saved_at, self.saved_time = trainer.step, time.monotonic()
        self.window = _Window()

    def to_the_end(self) -> TrainResult:
        """Run all steps that are left."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)
        batches = load_batches(
            self.samples,
            self.order,
            first=self.trainer.step,
            last=self.trainer.total_steps,
            rank=self.world.rank,
            size=self.world.size,
            workers=self.config.loader.workers,
            pin_memory=self.world.device.type == "cuda",
        )
        self.window.open()
        for loaded in batches:
            batch = loaded.to(self.world.device)
            self.window.batch_arrived()
            self._check_corrupt(batch)
            forward = self.trainer.forward(batch)
            probed = self._probe_if_due(batch, forward)
            norm, rate = self.trainer.update(batch, forward)
            self.window.batch_done(self.config.global_batch)
            if self._is_due_to_log() or probed is not None:
                self._write_metrics(
                    batch, forward, {"lr": rate, "grad_norm": norm.item(), **(probed or {})}
                )
            self._save_if_due()
        self._save(scheduled=True)
        if self.log is not None:
            self.log.close()
        return self._result()

    def _probe_if_due(self, batch: Batch, forward: Forward) -> dict[str, float] | None:
        """Return what the probe measured, None where it is not due."""
        step, last = self.trainer.step, self.trainer.total_steps - 1
        if self.probe is None or (step % self.probe.every_steps and step != last):
            return None
        return self.probe.measure(self.trainer, batch, forward)

    def _is_due_to_log(self) -> bool:
        step = self.trainer.step
        return step % self.config.log_every_steps == 0 or step in (1, self.trainer.total_steps)

    def _write_metrics(self, batch: Batch, forward: Forward, more: dict[str, float]) -> None:
        """Reduce over ranks and write; every rank calls this."""
        self.loss = all_reduce_mean_(forward.result.loss.detach().clone(), self.world).item()
        ids = all_gather(batch.sample_ids, self.world)
        if self.log is None:
            return
        trainer = self.trainer
        speed, wait = self.window.close()
        self.log.write(
            {
                "step": trainer.step,
                "samples_seen": trainer.samples_seen,
                "epoch": trainer.samples_seen / self.order.count,
                "loss": self.loss,
                "samples_per_s": speed,
                "data_wait": wait,
                "sample_ids_sha256": hashlib.sha256(
                    ids.cpu().numpy().astype("<i8").tobytes()
                ).hexdigest(),
                **{name: float(value) for name, value in forward.result.metrics.items()},
                **more,
            }
        )
        left_s = (trainer.total_steps - trainer.step) * self.config.global_batch / max(speed, 1e-9)
        note = f"loss {self.loss:.3f}, {speed:.0f} samples/s, data wait {wait:.0%}, {left_s:.0f} s left"
        report = {"done": trainer.step, "total": trainer.total_steps, "note": note}
        sys.stdout.write(f"{PROGRESS_MARK}{json.dumps(report)}\n")
        sys.stdout.flush()

    def _check_corrupt(self, batch: Batch) -> None:
        self.corrupt.update(batch.corrupt)
        if len(self.corrupt) > self.config.loader.max_corrupt_share * self.order.count:
            raise IntegrityError(
                f"{len(self.corrupt)} of {self.order.count} samples do not decode, more than "
                f"train.loader.max_corrupt_share {self.config.loader.max_corrupt_share:.2%} allows; first ids "
                f"{sorted(self.corrupt)[:5]}"
            )

    def _save_if_due(self) -> None:
        step, config = self.trainer.step, self.config
        if step == self.trainer.total_steps:
            return
        if step % config.save_every_steps == 0:
            self._save(scheduled=True)
        elif self._agreed_to_save_now():
            self._save(scheduled=False)
        if self.asked_to_stop and self.saved_at == step:
            raise CheckpointError(
                f"stopped by a signal at step {step}; run again to resume from there"
            )

    def _agreed_to_save_now(self) -> bool:
        """Tell whether a signal or the clock asks for a checkpoint; the main rank decides for all at set steps."""
        if self.world.size > 1 and self.trainer.step % self.config.log_every_steps:
            return False
        minutes = self.config.save_every_minutes
        is_due = minutes is not None and time.monotonic() - self.saved_time > 60 * minutes
        wishes = torch.tensor([float(self.asked_to_stop), float(is_due)], device=self.world.device)
        stop, due = all_reduce_mean_(wishes, self.world).tolist()
        self.asked_to_stop = stop > 0
        return stop > 0 or due > 0

    def _save(self, *, scheduled: bool) -> None:
        """Write a checkpoint on the main rank; everybody waits for it."""
        if self.saved_at != self.trainer.step or self.trainer.step == self.trainer.total_steps:
            self.corrupt.update(*gather_objects(self.corrupt, self.world))
            shared = shared_state(self.trainer)
            if self.world.is_main:
                checkpoints = self.job.run_folder / CHECKPOINTS
                save_trainer(
                    self.trainer,
                    checkpoints,
                    shared=shared,
                    train_key=self.job.train_key,
                    scheduled=scheduled,
                )
                prune_checkpoints(checkpoints, keep=self.config.keep_checkpoints)
                mirror_run(self.job)
            barrier(self.world)
        self.saved_at, self.saved_time = self.trainer.step, time.monotonic()
        self.window.open()

    def _result(self) -> TrainResult:
        trainer, count = self.trainer, self.order.count
        return TrainResult(
            steps=trainer.total_steps,
            samples=count,
            samples_visited=min(count, trainer.samples_seen),
            samples_seen=trainer.samples_seen,
            corrupt=sorted(self.corrupt),
            resumed_at=self.resumed_at,
            final_loss=self.loss,
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked_to_stop = True


class _Window:
    """Speed since the last measurement: samples per second, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Begin to measure."""
        self._start = self._last = time.perf_counter()
        self._samples, self._wait_s = 0, 0.0

    def batch_arrived(self) -> None:
        """Count the time since the last batch was done as waiting."""
        self._wait_s += time.perf_counter() - self._last

    def batch_done(self, samples: int) -> None:
        """Count a batch."""
        self._samples += samples
        self._last = time.perf_counter()

    def close(self) -> tuple[float, float]:
        """Return samples/s and the data-wait share, and begin anew."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        speed, wait = self._samples / elapsed, self._wait_s / elapsed
        self.open()
        return speed, wait
