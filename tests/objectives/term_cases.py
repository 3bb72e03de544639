"""Multi-view steps that ranks run; with one rank they run in the test's own process."""

import torch
from torch.nn.functional import normalize

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.objectives.encoded import Encoded, View
from neuclip.objectives.objective import ObjectiveResult
from neuclip.objectives.terms.config import MultiViewConfig
from neuclip.objectives.terms.weighted import WeightedTerms

WIDTH, PAIRS = 6, 12


def terms_of(world=None, *, objective_weight=1.0, **sections):
    sections = {name: MultiViewConfig(**section) for name, section in sections.items()}
    return WeightedTerms(
        sections,
        objective_weight=objective_weight,
        feature_dim=WIDTH,
        num_samples=100,
        seed=0,
        world=world or World.single(),
    )


def views(images=2, texts=2, *, count=PAIRS, seed=0, dtype=torch.float64):
    """Unit-norm features by view that take a gradient; raw ones are twice as long."""
    draw = torch.Generator().manual_seed(seed)
    names = ("main", "second", "third")
    sides = []
    for number in (images, texts):
        raw = [torch.randn(count, WIDTH, generator=draw, dtype=dtype) for _ in range(number)]
        leaves = [normalize(x, dim=1).requires_grad_() for x in raw]
        sides.append({n: View(2 * x, x) for n, x in zip(names, leaves, strict=False)})
    return sides


def encoded_of(images, texts, ids=None):
    count = len(images["main"].unit)
    ids = torch.arange(count) if ids is None else ids
    return Encoded(images, texts, ids, dict.fromkeys(texts, ids))


def nothing(dtype=torch.float64):
    return ObjectiveResult(torch.zeros((), dtype=dtype), None, {})


def on_ranks(pairs):
    """Return the loss averaged over ranks, and the gradients of a rank's own features and of the temperature."""
    world = World.from_environment()
    try:
        images, texts = views()
        own = torch.arange(PAIRS).chunk(world.size)[world.rank]
        sides = [
            {
                name: View(v.raw[own].detach(), v.unit[own].detach().requires_grad_())
                for name, v in side.items()
            }
            for side in (images, texts)
        ]
        tau = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        terms = terms_of(world, mvs={"weight": 0.7, "pairs": pairs})
        ids = own.clone()
        ids[own == 5] = 2  # one sample is in the batch twice
        loss = terms.add_to(nothing(), encoded_of(*sides, ids), tau).loss
        loss.backward()
        average_gradients([tau], world)
        gradients = {
            f"{side}/{name}": view.unit.grad / world.size
            for side, found in zip(("image", "text"), sides, strict=True)
            for name, view in found.items()
            if view.unit.grad is not None
        }
        total = loss.detach().clone()
        if world.size > 1:
            torch.distributed.all_reduce(total)
        return {"loss": total / world.size, "gradients": gradients, "tau": tau.grad}
    finally:
        world.close()
