"""The training loop of one rank."""

import hashlib
import json
import math
import sys
from collections import Counter
from contextlib import closing
from functools import partial
from typing import NoReturn

import torch

from neuclip.distributed.collectives import all_gather, all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.foundation.errors import BudgetError, IntegrityError, NumericsError, StoppedError
from neuclip.index.sample_index import STATISTICS
from neuclip.loading.batches import load_batches
from neuclip.loading.samples import Batch
from neuclip.training.checkpointing import Checkpoints, restore_latest
from neuclip.training.held_out import HeldOut
from neuclip.training.job import PROGRESS_MARK, TrainJob, TrainResult
from neuclip.training.meter import Meter, forward_flops
from neuclip.training.metrics import MetricsLog, device_hours_so_far, last_loss
from neuclip.training.mirror import bring_checkpoint
from neuclip.training.parts import Parts, check_shared_memory, does_not_fit, make_parts
from neuclip.training.probe import NormalizerProbe
from neuclip.training.requested import RequestedSamples
from neuclip.training.stopping import StopRequest
from neuclip.training.trainer import Forward

_A_SIGNAL = "a signal"


def train(job: TrainJob, world: World, stop: StopRequest) -> TrainResult:
    """Train from the last checkpoint, or from the start, to the end.

    Raises: CheckpointError, IntegrityError, NumericsError: see the parts. ConfigError: if a batch does not fit
        into the device's memory. StoppedError: when asked to stop.
    """
    if world.local_rank == 0:
        check_shared_memory(job.config)  # before any rank has begun to fill it
    parts = make_parts(job, world)
    restore_latest(parts.trainer, job)
    try:
        return _Run(job, world, parts, stop).to_the_end()
    except torch.OutOfMemoryError as error:
        raise does_not_fit(job.config) from error


class _Run:
    """The loop and what it keeps from step to step."""

    def __init__(self, job: TrainJob, world: World, parts: Parts, stop: StopRequest) -> None:
        self.job, self.config, self.world, self.stop = job, job.config, world, stop
        self.trainer, self.samples, self.order = parts.trainer, parts.samples, parts.order
        trainer, samples, order = self.trainer, self.samples, self.order
        self.resumed_at = trainer.step
        self.requested = RequestedSamples(trainer, samples, job.index_uri)
        probe = self.config.probe
        self.probe = (
            NormalizerProbe(probe, samples, count=order.count, seed=job.seed) if probe else None
        )
        held_out = (
            HeldOut(job.shard_uri, job.index_uri, max_samples=self.config.held_out_samples)
            if self.config.keep_best
            else None
        )
        self.checkpoints = Checkpoints(
            job, trainer, score=partial(held_out.recall, trainer) if held_out else None
        )
        hours = device_hours_so_far(job.run_folder)
        self.log = (
            MetricsLog(
                job.run_folder,
                self.config.telemetry,
                run=job.train_key,
                resumed_at=trainer.step,
            )
            if world.is_main
            else None
        )
        self.loss = math.nan
        self.meter = Meter(
            self.config.telemetry,
            world,
            flops_per_sample=self._forward_flops(),
            in_bf16=trainer.in_bf16,
            device_hours=hours,
        )

    def to_the_end(self) -> TrainResult:
        """Run all steps that are left."""
        if self.resumed_at and self.world.is_main:
            self._tell(f"resumed at step {self.resumed_at}")
        try:
            while self.trainer.step < self.trainer.total_steps:
                self._run_until_rolled_back()
            if self.checkpoints.step != self.trainer.step:  # the last batch was passed over
                self.checkpoints.save(score=None)
            self.checkpoints.wait()
            if self.trainer.sample_statistics is not None and self.world.is_main:
                self.trainer.sample_statistics.write(self.job.run_folder / STATISTICS)
        finally:
            if self.log is not None:
                self.log.close()
        return self._result()

    def _run_until_rolled_back(self) -> None:
        """Run the steps from the present one on; return at the end, or when the weights went back."""
        trainer = self.trainer
        batches = load_batches(
            self.samples,
            self.order,
            first=trainer.step,
            last=trainer.total_steps,
            rank=self.world.rank,
            size=self.world.size,
            workers=self.config.loader.workers,
            pin_memory=self.world.device.type == "cuda",
            timeout_s=self.config.loader.timeout_s,
        )
        self.meter.open()
        with closing(batches):
            while trainer.step < trainer.total_steps:
                loaded = self.stop.wait_for_next(batches)
                why = self._agree_to_stop()
                if why:
                    self._stop(why)
                assert loaded is not None, "it comes unless one asks to stop"
                batch = loaded.to(self.world.device)
                self.meter.batch_arrived()
                self._check_corrupt(batch)
                try:
                    numbers = self._step(batch)
                except NumericsError as error:
                    if self._pass_over(batch, error):
                        return
                else:
                    self._write_and_save(batch, numbers)

    def _step(self, batch: Batch) -> dict[str, float]:
        """Do one update; return its numbers."""
        trainer = self.trainer
        self.requested.serve()
        forward = trainer.forward(batch)
        loss = forward.result.loss.detach().float().clone()
        self.loss = all_reduce_mean_(loss, self.world).item()
        trainer.guard.judge(self.loss, step=trainer.step, sample_ids=batch.sample_ids[:8].tolist())
        probed = self._probe_if_due(batch, forward)
        norm, rate = trainer.update(batch, forward)
        self.meter.batch_done(self.config.global_batch)
        if not self._is_due_to_log() and not probed:
            return {}
        metrics = {name: float(value) for name, value in forward.result.metrics.items()}
        return {"lr": rate, "grad_norm": norm.item(), **metrics, **probed}

    def _agree_to_stop(self) -> str:
        """Bring the wishes to stop and to save to every rank before a step; return why to stop, if so.

        A rank may have been woken from its wait for data, which the others have: nobody begins the step then. However
        little is left of a budget, each run does one step, so that running again gets on.
        """
        wishes = (
            self.stop.has_come,
            self.meter.is_over_budget and self.trainer.step > self.resumed_at,
            self.checkpoints.is_due_by_the_clock,
        )
        if self.world.size > 1:
            told = torch.tensor(wishes, dtype=torch.float32, device=self.world.device)
            wishes = all_reduce_mean_(told, self.world).tolist()
        stopped, spent, self.is_due = wishes
        if stopped:
            return _A_SIGNAL
        return f"its budget of {self.config.telemetry.budget:g}" if spent else ""

    def _pass_over(self, batch: Batch, error: NumericsError) -> bool:
        """Leave out a bad batch as the recipe says; return whether the weights went back to a checkpoint.

        Raises: NumericsError: if the recipe says stop, or there is nothing to go back to.
        """
        trainer, policy, last = self.trainer, self.config.on_bad_batch, self.trainer.step
        if policy == "stop":
            raise error
        if policy == "roll_back":
            self.checkpoints.wait()
            bring_checkpoint(self.job, self.world, main_has_it=True)
            passed_over = list(trainer.guard.passed_over)
            if not restore_latest(trainer, self.job):
                raise error
            trainer.guard.passed_over = passed_over
        trainer.guard.pass_over(trainer.step, last, error)
        self.loss = math.nan
        self.meter.batch_done(self.config.global_batch)
        trainer.pass_over(until=last + 1)
        self._write_metrics(batch, {"passed_over": len(trainer.guard.passed_over)})
        return policy == "roll_back"

    def _probe_if_due(self, batch: Batch, forward: Forward) -> dict[str, float]:
        """Return what the probe measured, nothing where it is not due."""
        step, last = self.trainer.step, self.trainer.total_steps - 1
        if self.probe is None or (step % self.probe.every_steps and step != last):
            return {}
        return self.probe.measure(self.trainer, batch, forward)

    def _forward_flops(self) -> int:
        """Count the FLOPs of one sample's forward pass; the features are thrown away."""
        px = self.trainer.towers.image_px
        images = torch.zeros(1, 3, px, px, device=self.world.device)
        tokens = self.trainer.towers.tokenize([""]).to(self.world.device)
        return forward_flops(self.trainer.encoders, images, tokens)

    def _is_due_to_log(self) -> bool:
        step = self.trainer.step
        return step % self.config.log_every_steps == 0 or step in (1, self.trainer.total_steps)

    def _write_metrics(self, batch: Batch, more: dict[str, float]) -> None:
        """Gather over ranks and write; every rank calls this."""
        ids = all_gather(batch.sample_ids, self.world)
        if self.log is None:
            return
        trainer = self.trainer
        measured = self.meter.close()
        digest = hashlib.sha256(ids.cpu().numpy().astype("<i8").tobytes()).hexdigest()
        self.log.write(
            {
                "step": trainer.step,
                "samples_seen": trainer.samples_seen,
                "epoch": trainer.samples_seen / self.order.count,
                "loss": self.loss,
                "sample_ids_sha256": digest,
                **measured,
                **more,
            }
        )
        self._report(measured)

    def _report(self, measured: dict[str, float]) -> None:
        """Tell the stage how far the run is, as a line it knows."""
        trainer, speed = self.trainer, measured["samples_per_s"]
        left_s = (trainer.total_steps - trainer.step) * self.config.global_batch / max(speed, 1e-9)
        parts = [
            f"loss {self.loss:.3f}",
            f"{speed:.0f} samples/s",
            f"data wait {measured['data_wait']:.0%}",
            *([f"MFU {measured['mfu']:.0%}"] if "mfu" in measured else []),
            *([f"cost {measured['cost']:.2f}"] if "cost" in measured else []),
            f"{left_s:.0f} s left",
            *([f"resumed at step {self.resumed_at}"] if self.resumed_at else []),
        ]
        self._tell(", ".join(parts))

    def _tell(self, note: str) -> None:
        """Say where the run is, as a line that the stage knows."""
        report = {"done": self.trainer.step, "total": self.trainer.total_steps, "note": note}
        sys.stdout.write(f"{PROGRESS_MARK}{json.dumps(report)}\n")
        sys.stdout.flush()

    def _check_corrupt(self, batch: Batch) -> None:
        corrupt, most = self.trainer.corrupt, self.config.loader.max_corrupt_share
        corrupt.update(batch.corrupt)
        if len(corrupt) > most * self.order.count:
            raise IntegrityError(
                f"{len(corrupt)} of {self.order.count} samples do not decode, more than "
                f"train.loader.max_corrupt_share {most:.2%} allows; the first sample ids are {sorted(corrupt)[:5]}"
            )

    def _write_and_save(self, batch: Batch, numbers: dict[str, float]) -> None:
        """Write the numbers of a step, then the checkpoint if one is due: a run that resumes has the line."""
        self.checkpoints.check()
        score = self.checkpoints.score_if_due()
        if score is not None:
            numbers = {**numbers, "held_out_recall": score}
        if numbers:
            self._write_metrics(batch, numbers)
        if self.checkpoints.is_due_by_step or self.is_due:
            self.checkpoints.save(score=score)
            self.meter.open()

    def _stop(self, why: str) -> NoReturn:
        """Save, unless that is done, and stop.

        Raises: StoppedError, or BudgetError: saying at which step.
        """
        step = self.trainer.step
        if self.checkpoints.step != step:
            self.checkpoints.save(score=None)
        self.checkpoints.wait()
        kind = StoppedError if why == _A_SIGNAL else BudgetError
        kept = f"saved at step {step}" if step else "before its first step"
        raise kind(
            f"training was stopped by {why}, {kept}; run the same command again to go on from there"
        )

    def _result(self) -> TrainResult:
        trainer, count = self.trainer, self.order.count
        return TrainResult(
            steps=trainer.total_steps,
            samples=count,
            samples_visited=min(count, trainer.samples_seen),
            samples_seen=trainer.samples_seen,
            corrupt=sorted(trainer.corrupt),
            passed_over=trainer.guard.passed_over,
            never_used=self._never_used(),
            resumed_at=self.resumed_at,
            final_loss=last_loss(
                self.job.run_folder
            ),  # a run that resumes at its end has no loss of its own
        )

    def _never_used(self) -> int:
        """Count the samples that decode and stand in as many batches passed over as they have been visited."""
        held: Counter[int] = Counter()
        for step in self.trainer.guard.passed_over:
            held.update(sample_id for _, sample_id in self.order.batch(step))
        visits = max(1, self.trainer.samples_seen // self.order.count)
        return sum(
            times >= visits
            for sample_id, times in held.items()
            if sample_id not in self.trainer.corrupt
        )
