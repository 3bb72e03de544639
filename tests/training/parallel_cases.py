"""Steps of a trainer under some layout over ranks; with one rank they run in the test's own process."""

import math
from contextlib import contextmanager
from pathlib import Path

import torch
from training.micro_batch_cases import make_batch, make_trainer, update

from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.loading.visits import MAIN
from neuclip.towers.encode import encode_texts
from neuclip.training.saving import restore_trainer, take_snapshot, write_snapshot


@contextmanager
def joined():
    """The world, left again even after an error, for the next case to join."""
    world = World.from_environment()
    try:
        yield world
    finally:
        world.close()


def train(settings, steps, **places):
    """Take steps with the trainer of these settings."""
    with joined() as world:
        return _train(world, settings, steps, **places)


def look(trainer):
    """Features of a batch as scoring takes them, from the published weights."""
    batch = make_batch(trainer, 99)
    trainer.towers.model.eval()
    texts = [f"number {number}" for number in batch.sample_ids.tolist()]
    with trainer.published_weights(), torch.no_grad():
        images = trainer.towers.image_features(batch.images[MAIN])
        features = images.float(), encode_texts(trainer.towers, texts, batch_size=5)
    trainer.towers.model.train()
    return torch.stack(features)


def _train(world, settings, steps, *, restore=None, save=None, looks=False):
    """Take the steps of a range, from a checkpoint or from the start; return losses, norms and the weights after.

    The losses are those of this rank.
    """
    trainer = make_trainer(world=world, **settings)
    if restore is not None:
        restore_trainer(trainer, Path(restore))
    losses, norms = [], []
    seen = []
    for step in steps:
        if looks:
            seen.append(look(trainer))
        batch = make_batch(trainer, step)
        done, _, result = update(trainer, batch)
        losses.append(result.loss.item())
        norms.append(done.norm.item())
    model = trainer.model_state()
    snapshot = take_snapshot(trainer, train_key="k", scheduled=True)
    folder = write_snapshot(snapshot, Path(save)) if save and snapshot else None
    own_bytes = sum(
        getattr(p, "_local_tensor", p).nbytes for p in trainer.towers.model.parameters()
    )
    return {
        "losses": losses,
        "norms": norms,
        "model": model,
        "state": snapshot and snapshot.state,
        "weights": snapshot and snapshot.weights,
        "folder": folder,
        "own_bytes": own_bytes,
        "seen": torch.cat(seen, dim=1) if seen else None,
    }


def spoiled(settings, bad_rank, what):
    """One step in which one rank's numbers are not finite; return the error and whether weights moved."""
    with joined() as world:
        trainer = make_trainer(world=world, **settings)
        before = {name: x.clone() for name, x in trainer.model_state().items()}
        batch = make_batch(trainer)

        def spoil(_, result):
            if world.rank == bad_rank and what == "loss":
                with torch.no_grad():
                    result.loss.mul_(math.nan)
            elif world.rank == bad_rank:
                scale = trainer.objective.learned_temperature.log_scale
                scale.register_hook(lambda gradient: gradient * math.inf)

        try:
            trainer.update(batch, spoil)
            trainer.settle()
            message, bad_step = "", None
        except NumericsError as error:
            message, bad_step = str(error), error.step
        is_same = all(torch.equal(before[name], x) for name, x in trainer.model_state().items())
        return message, is_same, bad_step


def train_with(settings, steps, places):
    """`train`, as a pool of ranks calls it."""
    return train(settings, steps, **places)
