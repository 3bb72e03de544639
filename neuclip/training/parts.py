"""The parts that a run is put together from, as its job names them."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.index.reader import SampleTable, read_samples
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.shared_memory import require_shared_memory
from neuclip.loading.workers import PREFETCH
from neuclip.objectives.registry import build
from neuclip.towers.model import Towers, architecture_of, create_towers
from neuclip.towers.transforms import training_pixels
from neuclip.training.config import TrainConfig
from neuclip.training.job import TrainJob
from neuclip.training.trainer import Trainer


@dataclass(frozen=True)
class Parts:
    """A trainer at its start, and the data in its order."""

    order: BatchOrder
    trainer: Trainer
    samples: ShardSamples


def make_parts(job: TrainJob, world: World) -> Parts:
    """Put a run together.

    Raises: ConfigError: if batch, streams or model do not fit. DataError: if there are no samples.
    """
    config = job.config
    table = read_samples(job.index_uri)
    order = make_order(job, table)
    towers = create_towers(config.model, seed=job.seed, device=world.device)
    objective = build(
        config.objective,
        feature_dim=towers.embed_dim,
        num_samples=order.count,
        seed=job.seed,
        world=world,
    )
    trainer = Trainer(
        towers,
        objective,
        config,
        seed=job.seed,
        total_steps=total_steps(config, order.count),
        world=world,
    )
    samples = training_samples(
        config,
        table,
        towers,
        shard_uri=job.shard_uri,
        index_uri=job.index_uri,
        seed=job.seed,
    )
    return Parts(order, trainer, samples)


def make_order(job: TrainJob, table: SampleTable) -> BatchOrder:
    """Return the order of a run's batches."""
    return BatchOrder(
        np.bincount(table.shard, minlength=len(table.shards)).astype(np.int64),
        seed=job.seed,
        streams=job.config.streams,
        global_batch=job.config.global_batch,
    )


def total_steps(config: TrainConfig, samples: int) -> int:
    """Return the updates of a run; the last batch reaches into the epoch after."""
    return max(1, math.ceil(config.epochs * samples / config.global_batch))


def training_samples(
    config: TrainConfig,
    table: SampleTable,
    towers: Towers,
    *,
    shard_uri: str,
    index_uri: str,
    seed: int,
) -> ShardSamples:
    """Return the training samples with the transform of a recipe."""
    captions = Captions(
        index_uri,
        weights=config.caption_sources,
        seed=seed,
        cache_gb=config.loader.cache_gb,
    )
    return ShardSamples(
        ShardFiles(shard_uri, cache_gb=config.loader.cache_gb),
        table,
        to_pixels=partial(
            training_pixels,
            image_px=towers.image_px,
            scale=config.crop_scale,
            scaled_decode=config.loader.scaled_decode,
        ),
        tokenize=towers.tokenize,
        captions=captions,
        seed=seed,
    )


def check_shared_memory(config: TrainConfig) -> str:
    """Check that the batches which this machine's ranks load ahead fit into its shared memory.

    Counted are those that loading processes are ahead, and for each rank the one in use and the one on its way.

    Raises: ConfigError: saying what is needed, what there is, and what to change.
    """
    workers, ranks = config.loader.workers, config.launch.processes
    if not workers:
        return "none is needed without loading processes"
    architecture = architecture_of(config.model)
    size = architecture.get("vision_cfg", {}).get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    tokens = architecture.get("text_cfg", {}).get("context_length", 77)
    share = config.global_batch // config.launch.world_size
    batch_bytes = share * (3 * height * width + 8 * tokens + 8)
    return require_shared_memory(batch_bytes, batches=(PREFETCH * workers + 2) * ranks)


def does_not_fit(config: TrainConfig) -> ConfigError:
    """Return the error for a batch that is too large for the device, saying what to change."""
    share = config.global_batch // config.launch.world_size
    now = "null" if config.micro_batch is None else config.micro_batch
    return ConfigError(
        f"a rank's share of {share} pairs does not fit into the device's memory; set train.micro_batch (now {now}) to "
        "a divisor of it, train.grad_checkpointing: true, a lower train.global_batch, or more ranks"
    )
