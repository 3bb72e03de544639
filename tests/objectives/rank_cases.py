"""Cases that ranks run; with one rank they run in the test's own process."""

import torch
from oracles.toy import Toy

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.objectives import blocks
from neuclip.objectives.registry import build

NUM_SAMPLES = 40  # five steps of 12 pairs are an epoch and a half


def train(config, num_steps, dtype=torch.float64, *, has_twins=False):
    """Train the toy's encoders; a rank sees its share of each global batch of 12 pairs.

    With twins, each batch has a sample three times and another twice, on whatever ranks.
    Returns the last step's local loss, gradients averaged over ranks, normalizers and metrics,
    what is predicted for the first four pairs, and the whole state at the end.
    """
    world = World.from_environment()
    objective = build(config, feature_dim=6, num_samples=NUM_SAMPLES, seed=3, world=world)
    objective = objective.to(dtype)
    toy = Toy(dtype=dtype)
    leaves = [torch.nn.Parameter(encoder.detach()) for encoder in toy.encoders]
    toy.image_encoder, toy.text_encoder = leaves
    learned = [p for group in objective.trainable() for p in group.parameters]
    leaves += learned
    optimizer = torch.optim.SGD(leaves, lr=0.02)
    everything = toy.raw_images, toy.raw_texts
    for step in range(num_steps):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(step))
        own = order.chunk(world.size)[world.rank]
        ids = own.clone()
        if has_twins:
            ids[(own == 3) | (own == 8)] = 1
            ids[own == 5] = 2
        toy.raw_images, toy.raw_texts = (raw[own] for raw in everything)
        # New pairs at every step, so that only some prototypes are of an anchor's own pair.
        toy.raw_images = toy.raw_images + 0.3 * step * toy.raw_texts.roll(1, dims=1)
        serve(objective)
        result = objective(*toy.features(), ids + 7 * step)
        optimizer.zero_grad()
        result.loss.backward()
        average_gradients(leaves, world)
        optimizer.step()
        objective.advance(step + 1)
    toy.raw_images, toy.raw_texts = (raw[:4] for raw in everything)
    predicted = objective.predict(*(f.detach() for f in toy.features()), torch.arange(4))
    state = objective.whole_state()
    world.close()
    return {
        "loss": result.loss.detach(),
        "scale": torch.as_tensor(result.scale, dtype=torch.float64),
        "gradients": [leaf.grad for leaf in leaves],
        "log_normalizers": result.log_normalizers,
        "metrics": result.metrics,
        "leaves": [leaf.detach() for leaf in leaves],
        "predicted": predicted,
        "state": flat(state),
        "raw_state": state,
    }


def train_with_twins(config, num_steps):
    return train(config, num_steps, has_twins=True)


def train_in_blocks(config, num_steps):
    """The same where nothing is small enough for all logits to be kept."""
    before, blocks.MOST_AT_ONCE = blocks.MOST_AT_ONCE, 1
    try:
        return train(config, num_steps)
    finally:
        blocks.MOST_AT_ONCE = before


def serve(objective):
    """Give the objective what it wants of the index: unit vectors that follow from the seed of the draw."""
    wanted = objective.wanted()
    if wanted is not None:
        draw = torch.Generator().manual_seed(wanted.seed % 2**31)
        features = torch.randn(2, wanted.num_pairs, 6, generator=draw, dtype=torch.float64)
        ids = torch.randperm(NUM_SAMPLES, generator=draw)[: wanted.num_pairs]
        objective.take(*torch.nn.functional.normalize(features, dim=2), ids)


def flat(state, prefix=""):
    """Tensors by dotted name."""
    found = {}
    for name, value in state.items():
        found |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value.clone()}
        )
    return found


def resume(config, state, num_steps):
    """Take a whole state at this number of ranks, and give it back after some more steps."""
    world = World.from_environment()
    objective = build(config, feature_dim=6, num_samples=NUM_SAMPLES, seed=3, world=world).double()
    objective.load_whole_state(state)
    first = flat(objective.whole_state())
    toy = Toy()
    images, texts = (features.detach() for features in toy.features())
    for step in range(num_steps):
        own = torch.arange(12).chunk(world.size)[world.rank]
        serve(objective)
        objective(images[own], texts[own], own + 2 * step)
        objective.advance(objective.completed_steps + 1)
    last = flat(objective.whole_state())
    world.close()
    return first, last


def not_finite(config):
    """What each rank says when one of them has a feature that is not finite, and its state."""
    world = World.from_environment()
    objective = build(config, feature_dim=6, num_samples=NUM_SAMPLES, world=world)
    images, texts = (features.detach().float() for features in Toy().features())
    own = torch.arange(12).chunk(world.size)[world.rank]
    objective(images[own], texts[own], own)
    objective.advance(1)
    before = flat(objective.whole_state())
    texts[7, 2] = torch.nan
    images[9] = torch.inf
    message = ""
    try:
        objective(images[own], texts[own], own + 20)
    except NumericsError as error:
        message = str(error)
    after = flat(objective.whole_state())
    world.close()
    is_same = all(torch.equal(before[name], after[name]) for name in before)
    return message, is_same


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


def open_clip_loss(name):
    """Loss and averaged gradients of open_clip's own loss, float32, and of ours beside it."""
    from open_clip.loss import ClipLoss, SigLipLoss

    world = World.from_environment()
    split = {"rank": world.rank, "world_size": world.size}
    theirs = (
        ClipLoss(local_loss=True, gather_with_grad=True, **split)
        if name == "openclip"
        else SigLipLoss(**split)
    )
    objective = build({"name": name}, feature_dim=6, num_samples=NUM_SAMPLES, world=world)
    learned = [p for group in objective.trainable() for p in group.parameters]
    found = []
    for is_ours in (False, True):
        toy = Toy(dtype=torch.float32)
        leaves = [torch.nn.Parameter(encoder.detach()) for encoder in toy.encoders]
        toy.image_encoder, toy.text_encoder = leaves
        own = torch.arange(12).chunk(world.size)[world.rank]
        toy.raw_images, toy.raw_texts = toy.raw_images[own], toy.raw_texts[own]
        for parameter in learned:
            parameter.grad = None
        scale = objective.learned_temperature.log_scale.exp()
        more = [objective.logit_bias] if name == "siglip" else []
        loss = (
            objective(*toy.features(), own).loss
            if is_ours
            else theirs(*toy.features(), scale, *more)
        )
        loss.backward()
        average_gradients([*leaves, *learned], world)
        found.append((loss.detach(), [p.grad.clone() for p in [*leaves, *learned]]))
    world.close()
    return found
