"""Multi-view steps that ranks run; with one rank they run in the test's own process."""

from dataclasses import replace

import torch
from pydantic import TypeAdapter
from torch.nn.functional import normalize

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.loading.masked import Masked
from neuclip.objectives.encoded import Encoded, View
from neuclip.objectives.objective import ObjectiveResult
from neuclip.objectives.terms.config import TermConfig, Views
from neuclip.objectives.terms.heads import GlobalBatchNorm
from neuclip.objectives.terms.term import About
from neuclip.objectives.terms.weighted import WeightedTerms
from neuclip.tokens.vocabulary import Vocabulary

WIDTH, PAIRS, TOKENS, IDS = 6, 12, 5, 30
_SECTION = TypeAdapter(TermConfig)
TWO = Views(["main", "second"], ["main", "second"])


def terms_of(world=None, *, known=None, objective_weight=1.0, **sections):
    known = known or Views(["main", "second", "third"], ["main", "second"])
    about = About(WIDTH, 100, 0, world or World.single(), known, lambda: Vocabulary(IDS, 7, WIDTH))
    return WeightedTerms(
        {
            name: _SECTION.validate_python({"name": "multi_view", **one})
            for name, one in sections.items()
        },
        objective_weight=objective_weight,
        about=about,
    ).double()


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
        terms = terms_of(world, known=TWO, mvs={"weight": 0.7, "pairs": pairs})
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


def with_states(encoded, masked, *, count=PAIRS, rows=slice(None)):
    """Give the main view of texts token states that take a gradient, and masked tokens."""
    draw = torch.Generator().manual_seed(8)
    states = torch.randn(count, TOKENS, WIDTH, generator=draw, dtype=torch.float64)[rows]
    main = encoded.texts["main"]._replace(states=states.clone().requires_grad_())
    return replace(encoded, texts={**encoded.texts, "main": main}, masked={"main": Masked(*masked)})


def norm_on_ranks():
    """Norm a rank's share of a batch; return it, its gradient and that of the gain."""
    world = World.from_environment()
    try:
        draw = torch.Generator().manual_seed(3)
        rows = torch.randn(8, 4, generator=draw, dtype=torch.float64)
        own = rows.chunk(world.size)[world.rank].clone().requires_grad_()
        norm = GlobalBatchNorm(4, world=world).double()
        found = norm(own)
        found.square().mul(torch.arange(4.0)).cos().sum().div(len(own)).backward()
        average_gradients(norm.parameters(), world)
        return {
            "normed": found.detach(),
            "gradient": own.grad / world.size,
            "weight": norm.weight.grad,
        }
    finally:
        world.close()


def image_self_on_ranks(method):
    """Three steps of the term alone, on embeddings that are learned by a layer; return loss and weights."""
    section = {"name": "image_self", "method": method, "weight": 1.0, "hidden": 8, "output": 4}
    return _learned_on_ranks({"siam": section}, lambda encoded, own: encoded)


def masked_text_on_ranks():
    """Of 12 texts only the first three have masked tokens: with four ranks three have none."""
    places, ids = torch.tensor([1, 2, 11]), torch.tensor([5, 0, 17])

    def mask(encoded, own):
        first = int(own[0])
        is_here = (places // TOKENS >= first) & (places // TOKENS <= int(own[-1]))
        masked = (places[is_here] - first * TOKENS, ids[is_here])
        return with_states(encoded, masked, rows=own)

    section = {"name": "masked_text", "weight": 1.0, "view": "shared"}
    return _learned_on_ranks({"words": section}, mask)


def neighbours_on_ranks():
    section = {"name": "neighbours", "weight": 1.0, "queue": 32}
    return _learned_on_ranks({"near": section}, lambda encoded, own: encoded, steps=20)


def _learned_on_ranks(sections, prepare, *, steps=3):
    """Steps of terms over embeddings that one layer learns; return losses, weights and whole state."""
    world = World.from_environment()
    try:
        terms = terms_of(world, known=TWO, **sections)
        layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
        torch.nn.init.eye_(layer.weight)
        learned = [layer.weight, *terms.parameters()]
        optimiser = torch.optim.SGD(learned, lr=0.1)
        own, told = torch.arange(PAIRS).chunk(world.size)[world.rank], {}
        for step in range(steps):
            images, texts = views(seed=step)
            sides = [
                {
                    n: View(raw := layer(v.raw[own].detach()), normalize(raw, dim=1))
                    for n, v in side.items()
                }
                for side in (images, texts)
            ]
            encoded = prepare(encoded_of(*sides, own + PAIRS * step), own)
            loss = terms.add_to(nothing(), encoded, torch.tensor(0.3).double()).loss
            optimiser.zero_grad()
            if loss.requires_grad:
                loss.backward()
            average_gradients(learned, world)
            optimiser.step()
            total = loss.detach().clone()
            if world.size > 1:
                torch.distributed.all_reduce(total)
            told[f"loss {step}"] = total / world.size
        [(name, term)] = terms._terms.items()
        state = {k: v for k, v in term.whole_state().items() if isinstance(v, torch.Tensor)}
        return (
            told | {"layer": layer.weight.detach()} | {f"{name} {k}": v for k, v in state.items()}
        )
    finally:
        world.close()
