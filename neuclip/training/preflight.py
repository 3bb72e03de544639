"""What can be known to go wrong before a GPU-second is spent."""

import shutil
import time
from collections.abc import Callable

import torch

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError, DataError, IntegrityError, nearest
from neuclip.index.reader import SampleTable, read_samples
from neuclip.index.side_files import count_texts
from neuclip.launching.config import LaunchConfig
from neuclip.loading.selection_split import read_selection_split
from neuclip.shards.members import shard_files_uri, shard_records
from neuclip.stages.manifest import FileRecord, part_uri, read_manifest, verify_sizes
from neuclip.storage.files import sha256_of
from neuclip.storage.uris import join
from neuclip.training.checkpointing import require_disk
from neuclip.training.job import TrainJob
from neuclip.training.meter import memory_bytes
from neuclip.training.parts import (
    check_shared_memory,
    does_not_fit,
    make_order,
    make_parts,
)
from neuclip.training.phases import Phase, plan_phases
from neuclip.training.requested import RequestedSamples, require_prototypes
from neuclip.training.text_features import check_features

_GB = 1e9


class Preflight:
    """The checks of one training run, each a function that says what it found.

    Each raises a NeuclipError that says what to change, if the run would fail.
    """

    def __init__(self, job: TrainJob) -> None:
        self._job, self._config = job, job.config

    @property
    def inputs(self) -> dict[str, Callable[[], str]]:
        """Checks that the train stage does each time it runs: seconds, and no model."""
        return {
            "files": self.files,
            "samples": self.samples,
            "prototypes": lambda: require_prototypes(self._config, self._job.index_uri),
            "captions": self.captions,
            "features": lambda: check_features(self._job),
            "held out": self.held_out,
            "launch": lambda: check_launch(self._config.launch),
            "shared memory": self.shared_memory,
        }

    @property
    def all(self) -> dict[str, Callable[[], str]]:
        """These, and one batch end to end on the device of this machine."""
        return {**self.inputs, "one batch": self.one_batch}

    def files(self) -> str:
        """Check that index and shards are there in full size, and the content of one shard."""
        job = self._job
        parts = read_manifest(job.shard_uri).parts
        for uri in (job.index_uri, *(part_uri(job.shard_uri, part) for part in parts)):
            verify_sizes(uri, read_manifest(uri))
        tars = shard_records(job.shard_uri)
        size_gb = sum(file.size_bytes for file in tars.values()) / _GB
        first, record = next(iter(tars.items()))
        _verify_content(join(shard_files_uri(job.shard_uri), first), record)
        return f"{len(tars)} shards of {size_gb:.3g} GB are there; {first} is what was committed"

    def samples(self) -> str:
        """Check that batches, streams and ranks fit the data."""
        config = self._config
        table, ranks = read_samples(self._job.index_uri), config.launch.world_size
        phases = plan_phases(config, table.count)
        told: list[str] = []
        for phase in phases:
            make_order(self._job, phase, table).batch(phase.first, rank=0, size=ranks)
            batch = phase.config.global_batch
            told.append(
                f"{phase.last - phase.first} steps of {batch} from {config.streams} streams, {batch // ranks} for "
                f"each of {ranks} ranks"
            )
        return f"{table.count} samples; {', then '.join(told)}"

    def captions(self) -> str:
        """Check that the recipe's caption sources exist, and their side files in full size."""
        known = count_texts(self._job.index_uri)
        for source in self._config.all_caption_sources:
            if source not in known:
                raise DataError(
                    f"train.captions names {source!r}, which no sample has; sources of the samples: "
                    f"{', '.join(known)}.{nearest(source, known)} A column of the table becomes a source by "
                    "acquire.caption_columns; caption.imports, caption.derive and caption.generate make others. Take "
                    "the source out of train.captions if its column was removed"
                )
        return ", ".join(
            f"{source}: {known[source]} texts" for source in self._config.all_caption_sources
        )

    def held_out(self) -> str:
        """Check that there are pairs to choose a checkpoint by."""
        pairs = read_selection_split(
            self._job.shard_uri,
            self._job.index_uri,
            max_samples=self._config.held_out_samples,
        )
        return f"{len(pairs)} pairs to measure checkpoints on"

    def shared_memory(self) -> str:
        """Check that what loading processes send fits into this machine's shared memory, if the ranks are here."""
        if self._config.launch.elsewhere is not None:
            return "each machine looks at its own when its ranks start"
        return check_shared_memory(self._config)

    def one_batch(self) -> str:
        """Do one update of each phase with a rank's share of its first batch on this machine, and throw it away."""
        config, world = self._config, World.from_environment()
        table = read_samples(self._job.index_uri)
        found = [
            self._one_batch_of(phase, table, world) for phase in plan_phases(config, table.count)
        ]
        return "; ".join(found)

    def _one_batch_of(self, phase: Phase, table: SampleTable, world: World) -> str:
        parts = make_parts(self._job, world, phase, table)
        trainer = parts.trainer
        room = require_disk(self._job.run_folder, trainer)
        share = parts.order.batch(phase.first, rank=0, size=phase.config.launch.world_size)
        batch = parts.samples.__getitems__(share)
        start = time.perf_counter()
        try:
            on_device = batch.to(world.device)
            RequestedSamples(trainer, parts.samples, self._job.index_uri).serve()
            trainer.update(on_device)
            trainer.settle()
        except torch.OutOfMemoryError as error:
            raise does_not_fit(phase.config) from error
        seconds = time.perf_counter() - start
        return (
            f"{len(batch.sample_ids)} pairs through {world.device.type} in {seconds:.2g} s with "
            f"{memory_bytes(world.device) / 2**30:.3g} GiB; {room}"
        )


def check_launch(config: LaunchConfig) -> str:
    """Check that the ranks can be started from here."""
    elsewhere = config.elsewhere
    if elsewhere is None:
        gpus = torch.cuda.device_count()
        if gpus and config.processes > gpus:
            raise ConfigError(
                f"train.launch.processes is {config.processes}, but this machine has {gpus} GPUs; "
                f"set it to {gpus} or fewer"
            )
        return f"{config.processes} ranks on this machine, {gpus or 'no'} GPUs"
    programs = {
        "hosts": [config.hosts.connect[0]] if config.hosts else [],
        "slurm": ["sbatch", "squeue", "scancel"] if config.slurm else [],
        "kubernetes": ["kubectl"] if config.kubernetes else [],
    }
    kind = next(name for name, needed in programs.items() if needed)
    missing = [program for program in programs[kind] if shutil.which(program) is None]
    if missing:
        raise ConfigError(
            f"train.launch.{kind} needs {', '.join(missing)}, which this machine's PATH does not have; "
            "run from a machine that has it"
        )
    return f"{config.world_size} ranks on {config.machines} machines by {kind}"


def _verify_content(uri: str, file: FileRecord) -> None:
    found = sha256_of(uri)
    if found != file.sha256:
        raise IntegrityError(
            f"{uri} has SHA-256 {found[:12]}, committed was {file.sha256[:12]}; the shard was "
            "changed: run `--only shard --force`"
        )
