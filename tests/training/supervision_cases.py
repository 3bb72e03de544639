"""Steps with every term of DeCLIP; with one rank they run in the test's own process."""

import torch
from training.micro_batch_cases import make_trainer
from training.view_cases import make_views

from neuclip.distributed.world import World
from neuclip.loading.visits import MAIN, Visit
from neuclip.tokens.mask import TokenMask
from neuclip.training.saving import take_snapshot

TERMS = {
    "mvs": {"name": "multi_view", "weight": 0.2},
    "siam": {"name": "image_self", "weight": 0.2, "hidden": 8, "output": 8, "bottleneck": 4},
    "clr": {"name": "image_self", "method": "simclr", "weight": 0.1, "hidden": 8, "output": 4},
    "words": {"name": "masked_text", "weight": 0.2, "bidirectional": True},
    "shared": {"name": "masked_text", "weight": 0.2, "view": "shared", "text": "second"},
    "near": {"name": "neighbours", "weight": 0.2, "queue": 40},
}
VIEWS = {"image_views": {"second": {}}, "text_views": {"second": {}}}
ALL = {**VIEWS, "terms": TERMS, "global_views": "all"}


def make_masked(trainer, step):
    """A rank's share of a batch in all views that the terms read."""
    batch = make_views(trainer, step)
    mask = TokenMask(0.4, trainer.towers.tokenize)
    visits = [Visit(0, step, number) for number in batch.sample_ids.tolist()]
    for view, section in trainer.config.masked_views.items():
        tokens, masked = mask(batch.texts[section.text], visits, view)
        batch.texts[view], batch.masked[view] = tokens, masked
        batch.text_ids[view] = batch.text_ids[section.text]
    return batch


def train(settings, steps=20):
    """Take steps; return the losses, the weights of towers and heads after them, and the queue."""
    settings = dict(settings)
    world = World.from_environment()
    try:
        trainer = make_trainer(world=world, warmup_steps=0, **{**ALL, "lr": 1e-3, **settings})
        told = {"losses": [], "metrics": []}
        for step in range(steps):
            done = trainer.update(make_masked(trainer, step))
            told["losses"].append(done.loss)
            told["metrics"].append({k: float(v) for k, v in done.metrics.items()})
        trainer.settle()
        snapshot = take_snapshot(trainer, train_key="k", scheduled=True)
        told["model"] = trainer.model_state()
        told["terms"] = trainer.terms.whole_state()
        told["weights"] = snapshot.weights if snapshot else None
        told["published"] = sorted(snapshot.weights) if snapshot else None
        return told
    finally:
        world.close()


def flat(state, prefix=""):
    """Return all tensors of a nested state by path."""
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
    return found


__all__ = ["MAIN", "flat", "make_masked", "train"]
