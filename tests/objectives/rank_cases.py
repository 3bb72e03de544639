"""Cases that ranks run; with one rank they run in the test's own process."""

import torch
from oracles.toy import Toy

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.foundation.errors import ShapeError
from neuclip.objectives.family import build


def train(config, num_steps, dtype=torch.float64):
    """Train the toy's encoders; a rank sees its share of each global batch of 12 pairs.

    Returns the last step's local loss, gradients averaged over ranks, normalizers and metrics,
    and the state at the end.
    """
    world = World.from_environment()
    objective = build(config, feature_dim=6, num_samples=1000, world=world).to(dtype)
    toy = Toy(dtype=dtype)
    leaves = [torch.nn.Parameter(encoder.detach()) for encoder in toy.encoders]
    toy.image_encoder, toy.text_encoder = leaves
    leaves += objective.parameters()
    optimizer = torch.optim.SGD(leaves, lr=0.02)
    everything = toy.raw_images, toy.raw_texts
    for step in range(num_steps):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(step))
        own = order.chunk(world.size)[world.rank]
        toy.raw_images, toy.raw_texts = (raw[own] for raw in everything)
        # New pairs at every step, so that only some prototypes are of an anchor's own pair.
        toy.raw_images = toy.raw_images + 0.3 * step * toy.raw_texts.roll(1, dims=1)
        result = objective(*toy.features(), own + 7 * step)
        optimizer.zero_grad()
        result.loss.backward()
        average_gradients(leaves, world)
        optimizer.step()
        objective.advance(step + 1)
    world.close()
    return {
        "loss": result.loss.detach(),
        "gradients": [leaf.grad for leaf in leaves],
        "log_normalizers": result.log_normalizers,
        "metrics": result.metrics,
        "leaves": [leaf.detach() for leaf in leaves],
        "state": objective.state_dict(),
    }


def changed_batches(config):
    """What a rank says to unequal first batches, and to a later change of its own."""
    world = World.from_environment()
    images, texts = (features.detach().float() for features in Toy().features())
    ids = torch.arange(12)
    messages = []
    objective = build(config, feature_dim=6, num_samples=1000, world=world)
    try:
        size = 3 + world.rank
        objective(images[:size], texts[:size], ids[:size])
    except ShapeError as error:
        messages.append(str(error))
    objective(images[:4], texts[:4], ids[:4])
    try:
        objective(images[:5], texts[:5], ids[:5])
    except ShapeError as error:
        messages.append(str(error))
    world.close()
    return messages
