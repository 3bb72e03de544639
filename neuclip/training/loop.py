"""The training loop of one rank."""

import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from neuclip.distributed.collectives import all_gather, all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.foundation.errors import (
    BudgetError,
    CollapseError,
    IntegrityError,
    NumericsError,
    StoppedError,
)
from neuclip.index.reader import read_samples
from neuclip.index.sample_index import STATISTICS
from neuclip.loading.batch import Batch
from neuclip.loading.batches import load_batches
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.objective import ObjectiveResult
from neuclip.training.checkpointing import Checkpoints, latest_step, restore_latest
from neuclip.training.collapse import CollapseAlarm, signs_of
from neuclip.training.example_batch import example_batch
from neuclip.training.held_out import HeldOut
from neuclip.training.job import PROGRESS_MARK, TrainJob, TrainResult
from neuclip.training.meter import Meter, forward_flops
from neuclip.training.metrics import MetricsLog, device_hours_so_far, last_loss
from neuclip.training.mirror import bring_checkpoint
from neuclip.training.parts import Parts, check_shared_memory, does_not_fit, make_parts
from neuclip.training.phases import Phase, phase_at, plan_phases
from neuclip.training.probe import NormalizerProbe
from neuclip.training.requested import RequestedSamples
from neuclip.training.shown_texts import shares
from neuclip.training.stopping import StopRequest

log = logging.getLogger(__name__)

_STOPPED_BY = {"a signal": StoppedError, "a collapse": CollapseError}


def train(job: TrainJob, world: World, stop: StopRequest) -> TrainResult:
    """Train from the last checkpoint, or from the start, to the end, phase by phase.

    A phase begins as a run that resumes does: from the checkpoint in which the phase before has ended.

    Raises: CheckpointError, IntegrityError, NumericsError: see the parts. ConfigError: if a batch does not fit
        into the device's memory. StoppedError: when asked to stop.
    """
    if world.local_rank == 0:
        check_shared_memory(job.config)  # before any rank has begun to fill it
    table = read_samples(job.index_uri)
    phases = plan_phases(job.config, table.count)
    begun_at = step = latest_step(job)
    while True:
        phase = phase_at(phases, step)
        try:
            parts = make_parts(job, world, phase, table)
            restore_latest(parts.trainer, job)
            run = _Run(job, world, parts, stop, begun_at=begun_at, phases=phases)
            run.to_the_end_of_phase()
        except torch.OutOfMemoryError as error:
            raise does_not_fit(phase.config) from error
        if phase is phases[-1]:
            return run.result()
        step = phase.last
        del run, parts  # two models would be in memory
        bring_checkpoint(job, world, main_has_it=True)


class _Run:
    """The loop and what it keeps from step to step."""

    def __init__(
        self,
        job: TrainJob,
        world: World,
        parts: Parts,
        stop: StopRequest,
        *,
        begun_at: int,
        phases: Sequence[Phase],
    ) -> None:
        self.job, self.config, self.world, self.stop = job, parts.trainer.config, world, stop
        self.trainer, self.samples, self.order = parts.trainer, parts.samples, parts.order
        trainer, samples, order = self.trainer, self.samples, self.order
        self.begun_at, self.total_steps = begun_at, phases[-1].last
        self.phase_end = trainer.phase.last
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
        self.alarm = CollapseAlarm(self.config.collapse, [one.warm_up for one in phases])
        if self.log is not None:
            self.alarm.hear_all(self.log.earlier)
        self.loss: float | Tensor = math.nan
        self.ids = torch.empty(0, dtype=torch.int64, device=world.device)
        self.meter = Meter(
            self.config.telemetry,
            world,
            flops_per_sample=self._forward_flops(),
            in_bf16=trainer.in_bf16,
            device_hours=hours,
        )

    def to_the_end_of_phase(self) -> None:
        """Run all steps of the phase that are left."""
        trainer = self.trainer
        if self.begun_at and trainer.step == self.begun_at and self.world.is_main:
            self._tell(f"resumed at step {self.begun_at}")
        try:
            while trainer.step < self.phase_end:
                self._run_until_rolled_back()
            if self.checkpoints.step != trainer.step or not self.total_steps:
                # The last batch was passed over, or there is none.
                self.checkpoints.save(score=None)
            self.checkpoints.wait()
            statistics = trainer.sample_statistics
            if statistics is not None and self.world.is_main and trainer.step == self.total_steps:
                statistics.write(self.job.run_folder / STATISTICS)
        finally:
            if self.log is not None:
                self.log.close()

    def _run_until_rolled_back(self) -> None:
        """Run the steps from the present one on; return at the end, or when the weights went back."""
        trainer = self.trainer
        batches = load_batches(
            self.samples,
            self.order,
            first=trainer.step,
            last=self.phase_end,
            rank=self.world.rank,
            size=self.world.size,
            workers=self.config.loader.workers,
            pin_memory=self.world.device.type == "cuda",
            timeout_s=self.config.loader.timeout_s,
        )
        self.meter.open()
        with closing(batches):
            while trainer.step < self.phase_end:
                loaded = self.stop.wait_for_next(batches)
                if self._is_rolled_back(trainer.settle):
                    return
                if why := self._agree_to_stop():
                    self._stop(why)
                assert loaded is not None, "it comes unless one asks to stop"
                batch = loaded.to(self.world.device)
                self.meter.batch_arrived()
                self._check_corrupt(batch)
                if self._is_rolled_back(partial(self._step, batch)):
                    return

    def _is_rolled_back(self, do: Callable[[], None]) -> bool:
        """Do something that may find a bad batch; return whether the weights went back for it.

        Raises: NumericsError: if it does, and the recipe says stop.
        """
        try:
            do()
        except NumericsError as error:
            return self._pass_over(error)
        return False

    def _step(self, batch: Batch) -> None:
        """Do one update; write its numbers and save where that is due."""
        trainer, probed = self.trainer, dict[str, float | Tensor]()

        def look(encoded: Encoded, result: ObjectiveResult) -> None:
            if self._is_due_to_log(trainer.step + 1):
                batch_size = self.config.global_batch
                probed.update(signs_of(encoded, result, global_batch=batch_size))
            if self.probe is not None and self.probe.is_due(trainer.step, self.total_steps):
                probed.update(self.probe.measure(trainer, encoded))

        self.ids = batch.sample_ids
        self.requested.serve()
        try:
            done = trainer.update(batch, look)
        finally:
            self.meter.batch_done(self.config.global_batch)
        self.loss = done.loss
        is_to_write = self._is_due_to_log(trainer.step) or bool(probed)
        if not (is_to_write or self.checkpoints.is_due_by_step or self.is_due):
            return
        trainer.settle()  # what is written or saved is of a good batch
        numbers: dict[str, float] = {}
        if is_to_write:
            read = {name: float(value) for name, value in (done.metrics | probed).items()}
            numbers = {"lr": done.lr, "grad_norm": done.norm.item(), **read}
        self._write_and_save(numbers)

    def _agree_to_stop(self) -> str:
        """Bring the wishes to stop and to save to every rank before a step; return why to stop, if so.

        A rank may have been woken from its wait for data, which the others have: nobody begins the step then. However
        little is left of a budget, each run does one step, so that running again gets on.
        """
        wishes = (
            self.stop.has_come,
            self.config.collapse.stop and bool(self.alarm.message),
            self.meter.is_over_budget and self.trainer.step > self.begun_at,
            self.checkpoints.is_due_by_the_clock,
        )
        if self.world.size > 1:
            told = torch.tensor(
                wishes, dtype=torch.float32
            )  # in main memory: no device is waited for
            wishes = all_reduce_mean_(told, self.world).tolist()
        stopped, collapsed, spent, self.is_due = wishes
        if stopped or collapsed:
            return "a signal" if stopped else "a collapse"
        return f"its budget of {self.config.telemetry.budget:g}" if spent else ""

    def _pass_over(self, error: NumericsError) -> bool:
        """Leave out a bad batch as the recipe says; return whether the weights went back to a checkpoint.

        Raises: NumericsError: if the recipe says stop, or there is nothing to go back to.
        """
        trainer, policy = self.trainer, self.config.on_bad_batch
        first = last = trainer.step if error.step is None else error.step
        if policy == "stop":
            raise error
        if policy == "roll_back":
            self.checkpoints.wait()
            bring_checkpoint(self.job, self.world, main_has_it=True)
            passed_over = list(trainer.guard.passed_over)
            if not restore_latest(trainer, self.job):
                raise error
            trainer.guard.passed_over = passed_over
            first = trainer.step
        trainer.guard.pass_over(first, last, error)
        self.loss = math.nan
        trainer.pass_over(until=last + 1)
        self._write_metrics({"passed_over": len(trainer.guard.passed_over)})
        return policy == "roll_back"

    def _forward_flops(self) -> int:
        """Count the FLOPs of one sample's forward pass in all views; the features are thrown away."""
        batch = example_batch(self.config, self.trainer.towers, pairs=1).to(self.world.device)
        return forward_flops(self.trainer.encoders, batch.inputs())

    def _is_due_to_log(self, step: int) -> bool:
        return step % self.config.log_every_steps == 0 or step in (1, self.total_steps)

    def _write_metrics(self, more: dict[str, float]) -> None:
        """Gather over ranks and write; every rank calls this."""
        trainer = self.trainer
        ids, shown = all_gather(self.ids, self.world), trainer.texts.total()
        if self.log is None:
            return
        measured = self.meter.close()
        digest = hashlib.sha256(ids.cpu().numpy().astype("<i8").tobytes()).hexdigest()
        line = {
            "step": trainer.step,
            "samples_seen": trainer.samples_seen,
            "epoch": trainer.samples_seen / self.order.count,
            "loss": float(self.loss),
            "sample_ids_sha256": digest,
            **measured,
            **shares(shown),
            **more,
        }
        self.log.write(line)
        if self.alarm.hear(line):
            log.warning("%s", self.alarm.message)
        self._report(measured)

    def _report(self, measured: dict[str, float]) -> None:
        """Tell the stage how far the run is, as a line it knows."""
        trainer, speed = self.trainer, measured["samples_per_s"]
        left_s = (self.total_steps - trainer.step) * self.config.global_batch / max(speed, 1e-9)
        parts = [
            f"loss {float(self.loss):.3f}",
            f"{speed:.0f} samples/s",
            f"data wait {measured['data_wait']:.0%}",
            *([f"MFU {measured['mfu']:.0%}"] if "mfu" in measured else []),
            *([f"cost {measured['cost']:.2f}"] if "cost" in measured else []),
            *(["collapsed"] if self.alarm.message else []),
            f"{left_s:.0f} s left",
            *([f"resumed at step {self.begun_at}"] if self.begun_at else []),
        ]
        self._tell(", ".join(parts))

    def _tell(self, note: str) -> None:
        """Say where the run is, as a line that the stage knows."""
        report = {"done": self.trainer.step, "total": self.total_steps, "note": note}
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

    def _write_and_save(self, numbers: dict[str, float]) -> None:
        """Write the numbers of a step, then the checkpoint if one is due: a run that resumes has the line."""
        self.checkpoints.check()
        score = self.checkpoints.score_if_due()
        if score is not None:
            numbers = {**numbers, "held_out_recall": score}
        if numbers:
            self._write_metrics(numbers)
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
        kind = _STOPPED_BY.get(why, BudgetError)
        kept = f"saved at step {step}" if step else "before its first step"
        if kind is CollapseError:
            raise CollapseError(f"{self.alarm.message}. The run was {kept} and stopped")
        raise kind(
            f"training was stopped by {why}, {kept}; run the same command again to go on from there"
        )

    def result(self) -> TrainResult:
        """Say what the whole run did."""
        trainer, count = self.trainer, self.order.count
        return TrainResult(
            steps=self.total_steps,
            samples=count,
            samples_visited=min(count, trainer.samples_seen),
            samples_seen=trainer.samples_seen,
            corrupt=sorted(trainer.corrupt),
            passed_over=trainer.guard.passed_over,
            never_used=self._never_used(),
            texts=trainer.texts.total(),
            positions=trainer.positions,
            collapse=self.alarm.message,
            resumed_at=self.begun_at,
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
