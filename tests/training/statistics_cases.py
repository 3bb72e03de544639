"""Statistics of a few steps on one rank or more; with one rank they run in the test's own process."""

import pyarrow.parquet as pq
from training.micro_batch_cases import make_batch, make_trainer

from neuclip.distributed.world import World
from neuclip.index.sample_index import STATISTICS
from neuclip.training.saving import restore_trainer, take_snapshot, write_snapshot


def step(trainer, number):
    batch = make_batch(trainer, number)
    trainer.update(batch)
    trainer.settle()


def notes(settings, num_steps):
    world = World.from_environment()
    try:
        trainer = make_trainer(world=world, **settings)
        for number in range(num_steps):
            step(trainer, number)
        return {name: value.clone() for name, value in trainer.sample_statistics.state().items()}
    finally:
        world.close()


def restored(settings, saved_at, num_steps, folder, **changes):
    """Statistics of a run that was broken off and went on from its checkpoint."""
    first = make_trainer(**settings)
    for number in range(saved_at):
        step(first, number)
    saved = write_snapshot(take_snapshot(first, train_key="k", scheduled=True), folder)
    second = make_trainer(**(settings | changes))
    restore_trainer(second, saved)
    for number in range(saved_at, num_steps):
        step(second, number)
    return second.sample_statistics.state()


def table_of(folder):
    return pq.read_table(folder / STATISTICS).to_pylist()
