"""The parts that a run is put together from, as its job names them."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.index.reader import SampleTable
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.policies import Other, Same
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.shared_memory import require_shared_memory
from neuclip.loading.text_features import TextFeatures
from neuclip.loading.views import ImageView, TextView
from neuclip.loading.workers import PREFETCH
from neuclip.objectives.objective import Objective
from neuclip.objectives.registry import build
from neuclip.objectives.terms.config import NeighboursConfig
from neuclip.objectives.terms.term import About
from neuclip.objectives.terms.weighted import WeightedTerms
from neuclip.tokens.mask import TokenMask
from neuclip.tokens.texts.policy import build_text_tokens
from neuclip.towers.cached_features import CachedFeatures
from neuclip.towers.initial import Start, start_from
from neuclip.towers.model import create_towers
from neuclip.towers.positions import FIXED_TABLE, learn_fixed
from neuclip.towers.towers import Towers
from neuclip.towers.transforms import training_pixels
from neuclip.training.config import TrainConfig
from neuclip.training.job import TrainJob
from neuclip.training.phases import Phase
from neuclip.training.text_features import (
    encoder_files_of,
    put_encoder,
    reads_cached,
    towers_tokens,
)
from neuclip.training.tokens import patch_policy, sized
from neuclip.training.trainer import Trainer

log = logging.getLogger(__name__)


class _About(TypedDict):
    """What every loss is told of its run."""

    feature_dim: int
    num_samples: int
    seed: int
    world: World


@dataclass(frozen=True)
class Parts:
    """A trainer at the start of a phase, and the data in its order."""

    order: BatchOrder
    trainer: Trainer
    samples: ShardSamples


def make_parts(job: TrainJob, world: World, phase: Phase, table: SampleTable) -> Parts:
    """Put a phase of a run together.

    Raises: ConfigError: if batch, streams or model do not fit. DataError: if there are no samples.
    """
    order = make_order(job, phase, table)
    _require_full_queues(job.config, order.count)
    trainer = make_trainer(job, world, phase, num_samples=order.count)
    samples = training_samples(
        phase.config,
        table,
        trainer.towers,
        shard_uri=job.shard_uri,
        index_uri=job.index_uri,
        seed=job.seed,
    )
    return Parts(order, trainer, samples)


def make_trainer(job: TrainJob, world: World, phase: Phase, *, num_samples: int) -> Trainer:
    """Put towers and losses of a phase together.

    Args:
        num_samples: pairs in the training set.
    Raises: ConfigError: if the model does not fit.
    """
    config = phase.config
    towers = create_towers(
        config.model,
        seed=job.seed,
        device=world.device,
        change=partial(sized, config=config),
        beside=encoder_files_of(job),
    )
    put_encoder(towers, job)
    start = start_from(towers, config.initial) if config.initial else None
    towers = start.towers if start else towers
    if config.learn_positions:
        learn_fixed(towers.model)
    about = _About(
        feature_dim=towers.embed_dim, num_samples=num_samples, seed=job.seed, world=world
    )
    objective = build(config.objective, **about)
    if start:
        begin_objective(objective, start)
        if world.is_main and phase.number == 0:
            for note in (*start.notes, *start.positions):
                log.info("train.initial: %s", note)
    trainer = Trainer(
        towers,
        objective,
        WeightedTerms(
            config.terms,
            objective_weight=config.share_of_objective,
            about=About(**about, views=config.known_views, vocabulary=towers.text.vocabulary),
        ),
        phase,
        seed=job.seed,
        world=world,
    )
    if phase.number == 0:
        carried = start.positions if start else []
        learned = [f"{FIXED_TABLE} is learned from here on"] * config.learn_positions
        trainer.positions = [f"step 0: {note}" for note in (*carried, *learned)]
    return trainer


def _require_full_queues(config: TrainConfig, count: int) -> None:
    """Refuse a queue of past texts that the whole run does not fill: its term would never begin."""
    for name, term in config.active_terms.items():
        seen = int(config.epochs * count)
        if isinstance(term, NeighboursConfig) and term.queue >= seen:
            raise ConfigError(
                f"train.terms.{name}.queue {term.queue} is not full before the end of a run of {seen} texts; "
                "give less, or leave the term out"
            )


def begin_objective(objective: Objective, start: Start) -> None:
    """Give the objective the temperature and the bias of the model that the run starts from, where they are kept."""
    if start.log_scale is not None:
        objective.start_at(start.log_scale, start.bias)


def make_order(job: TrainJob, phase: Phase, table: SampleTable) -> BatchOrder:
    """Return the order of a phase's batches."""
    return BatchOrder(
        np.bincount(table.shard, minlength=len(table.shards)).astype(np.int64),
        seed=job.seed,
        streams=phase.config.streams,
        global_batch=phase.config.global_batch,
        first=phase.first,
        samples_before=phase.samples_before,
    )


def training_samples(
    config: TrainConfig,
    table: SampleTable,
    towers: Towers,
    *,
    shard_uri: str,
    index_uri: str,
    seed: int,
) -> ShardSamples:
    """Return the training samples in the views that a recipe's losses read."""
    images, texts = config.views_read
    cache_gb = config.loader.cache_gb
    features = TextFeatures(index_uri, cache_gb=cache_gb) if reads_cached(config) else None
    text_tokens = towers_tokens(towers) or build_text_tokens(config.text_tokens, towers.tokenize)
    patches = patch_policy(towers.architecture, config)
    masks = {
        view: TokenMask(term.share, towers.tokenize) for view, term in config.masked_views.items()
    }

    def text_view(name: str) -> TextView:
        policy = config.captions_in(name)
        of = text_view(policy.view) if isinstance(policy, Same | Other) else None
        return TextView(policy, text_tokens, name, of, masks.get(name), features)

    return ShardSamples(
        ShardFiles(shard_uri, cache_gb=cache_gb),
        table,
        images=[
            ImageView(
                partial(
                    training_pixels,
                    image_px=towers.image_px,
                    scale=config.of_image_view(name, "crop_scale"),
                    augment=config.of_image_view(name, "augment"),
                    scaled_decode=config.loader.scaled_decode,
                ),
                name,
                patches,
            )
            for name in images
        ],
        texts=[text_view(name) for name in texts],
        captions=Captions(index_uri, cache_gb=cache_gb, sources=features and features.sources),
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
    images, texts = config.views_read
    most = 0
    for flat in config.by_phase():
        architecture = sized(flat.model.model_cfg(), flat)
        size = architecture.get("vision_cfg", {}).get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        tokens = architecture.get("text_cfg", {}).get("context_length", 77)
        policy = patch_policy(architecture, flat)
        patches = 8 * policy.num_kept if policy else 0
        pair_bytes = len(images) * (3 * height * width + patches)
        text = flat.model.text
        text_bytes = 2 * text.width if isinstance(text, CachedFeatures) else 8 * tokens
        pair_bytes += len(texts) * (text_bytes + 8) + 8
        most = max(most, flat.global_batch // flat.launch.world_size * pair_bytes)
    return require_shared_memory(most, batches=(PREFETCH * workers + 2) * ranks)


def does_not_fit(config: TrainConfig) -> ConfigError:
    """Return the error for a batch that is too large for the device, saying what to change."""
    share = config.global_batch // config.launch.world_size
    now = "null" if config.micro_batch is None else config.micro_batch
    return ConfigError(
        f"a rank's share of {share} pairs does not fit into the device's memory; set train.micro_batch (now {now}) to "
        "a divisor of it, train.grad_checkpointing: true, a lower train.global_batch, or more ranks"
    )
