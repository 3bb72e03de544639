"""Prototypes from the index on one rank or more; with one rank they run in the test's own process."""

import torch
from made.packed import Packed
from training.runs import SMALL_NETWORK, make_config

from neuclip.distributed.world import World
from neuclip.index.reader import read_samples
from neuclip.training.job import TrainJob
from neuclip.training.parts import make_parts
from neuclip.training.phases import plan_phases
from neuclip.training.requested import RequestedSamples


def from_index(**network):
    return {"name": "neuclip", "estimator": SMALL_NETWORK | {"source": "index"} | network}


UNIFORM = from_index()


def parts_of(packed, folder, config, world=None):
    job = TrainJob(
        config=config,
        seed=5,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        run_uri=str(folder),
    )
    table = read_samples(job.index_uri)
    [phase] = plan_phases(config, table.count)
    return make_parts(job, world or World.single(), phase, table)


def first_prototypes(packed, folder, settings):
    """Prototypes of the first restart, and their ids."""
    torch.manual_seed(0)
    world = World.from_environment()
    try:
        packed = Packed(**packed)
        parts = parts_of(packed, folder, make_config(**settings, probe=None), world)
        RequestedSamples(parts.trainer, parts.samples, packed.index).serve()
        features, ids = parts.trainer.objective.estimator.source.held()
        return features.clone(), ids.clone()
    finally:
        world.close()
