"""Steps with two views of each side, and a term with a layer of its own; with one rank in the test's own process."""

import torch
from torch import nn
from torch.nn.functional import normalize
from training.micro_batch_cases import make_batch, make_trainer

from neuclip.distributed.world import World
from neuclip.loading.batch import Batch
from neuclip.loading.visits import MAIN
from neuclip.objectives.loss_part import TrainableGroup
from neuclip.objectives.terms.config import MultiViewConfig, Views
from neuclip.objectives.terms.term import About, Term, TermResult

VIEWS = {
    "image_views": {"second": {}},
    "text_views": {"second": {}},
    "terms": {"mvs": {"name": "multi_view", "weight": 0.4}},
}
RATE, DECAY = 5e-3, 0.3


class Head(Term):
    """Pulls a linear map of the images to the texts; it has parameters of its own."""

    def __init__(self, world):
        about = About(16, 1000, 0, world, Views([MAIN], [MAIN, "second"]), lambda: None)
        super().__init__(MultiViewConfig(name="multi_view", weight=1), "head", about)
        draw = torch.Generator().manual_seed(1)
        self.map = nn.Parameter(torch.randn(16, 16, generator=draw, dtype=torch.float64) / 4)

    def trainable(self):
        return [TrainableGroup("head", [self.map], RATE, decays=True)]

    def forward(self, encoded, temperature):
        del temperature
        found = normalize(encoded.images[MAIN].raw @ self.map, dim=1)
        return TermResult(-(found * encoded.texts["second"].unit).sum(dim=1).mean(), {})


def make_views(trainer, step):
    """A rank's share of a batch in two views: the second is noise around the first, and another text."""
    batch = make_batch(trainer, step)
    noise = [
        torch.randn(
            3, *batch.images[MAIN].shape[2:], generator=torch.Generator().manual_seed(number)
        )
        for number in (1000 + batch.sample_ids).tolist()
    ]
    again = batch.images[MAIN] + 0.1 * torch.stack(noise).to(batch.images[MAIN].dtype)
    others = trainer.towers.tokenize([f"again {number}" for number in batch.sample_ids.tolist()])
    return Batch(
        images={MAIN: batch.images[MAIN], "second": again},
        texts={MAIN: batch.texts[MAIN], "second": others},
        sample_ids=batch.sample_ids,
        text_ids={MAIN: batch.sample_ids, "second": -batch.sample_ids},
        corrupt=[],
        cpu_ids=batch.cpu_ids,
    )


def train_views(settings, steps=3):
    """Take steps; return the loss averaged over ranks and what was learned."""
    settings = dict(settings)
    world, has_head = World.from_environment(), settings.pop("head", False)
    try:
        trainer = make_trainer(world=world, weight_decay=DECAY, warmup_steps=0, **VIEWS, **settings)
        if has_head:
            _add_head(trainer, world)
        by_hand, told = _ByHand(trainer), {}
        for step in range(steps):
            told["loss"] = trainer.update(make_views(trainer, step)).loss
            by_hand.follow()
        trainer.settle()
        told |= {name: p.detach() for name, p in trainer.encoders.named_parameters()}
        return told | by_hand.found
    finally:
        world.close()


def _add_head(trainer, world):
    from neuclip.training.optimiser import build_optimiser

    trainer.terms._terms["head"] = Head(world)
    trainer.terms._weights["head"] = 0.5
    trainer.optimiser = build_optimiser(trainer.encoders, trainer.trainable(), trainer.config)


class _ByHand:
    """AdamW of the head from its definition, by the gradients that the trainer finds."""

    def __init__(self, trainer):
        self.found, self._config = {}, trainer.config
        self._head = trainer.terms._terms["head"].map if "head" in trainer.terms._terms else None
        if self._head is not None:
            self._weight = self._head.detach().clone()
            self.found["head before"] = self._weight.clone()
            self._first = self._second = torch.zeros_like(self._weight)
            self._steps = 0

    def follow(self):
        if self._head is None:
            return
        (beta1, beta2), eps = self._config.betas, self._config.adam_eps
        gradient, self._steps = self._head.grad, self._steps + 1
        self._first = beta1 * self._first + (1 - beta1) * gradient
        self._second = beta2 * self._second + (1 - beta2) * gradient**2
        mean = self._first / (1 - beta1**self._steps)
        root = (self._second / (1 - beta2**self._steps)).sqrt()
        self._weight = self._weight * (1 - RATE * DECAY) - RATE * mean / (root + eps)
        self.found |= {"head": self._head.detach(), "head by hand": self._weight}
