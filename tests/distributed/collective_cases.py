"""Cases that ranks run; each returns plain tensors and values."""

import torch

from neuclip.distributed import collectives
from neuclip.distributed.world import World
from neuclip.foundation.errors import ShapeError


def every_collective():
    world = World.from_environment()
    rank = world.rank
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([float(rank), 1.0])
    without_gradient = torch.nn.Parameter(torch.zeros(2))
    collectives.average_gradients([parameter, without_gradient], world)
    summed = torch.tensor([float(rank + 1)])
    is_same_tensor = collectives.all_reduce_sum_(summed, world) is summed
    found = {
        "place": (rank, world.size, world.local_rank, str(world.device), world.is_main),
        "gathered": collectives.all_gather(torch.full((2, 3), float(rank)), world),
        "gathered_ids": collectives.all_gather(torch.tensor([rank, 10 + rank]), world),
        "sum": summed,
        "is_same_tensor": is_same_tensor,
        "mean": collectives.all_reduce_mean_(torch.tensor([float(rank)]), world),
        "averaged": parameter.grad,
        "without_gradient": without_gradient.grad,
        "objects": collectives.gather_objects({"rank": rank}, world),
    }
    collectives.barrier(world)
    world.close()
    return found


def gradient_of_gather(rows, weights):
    """Each rank owns a run of the rows; its loss is sum(weights[rank] * gathered ** 2)."""
    world = World.from_environment()
    own = rows.chunk(world.size)[world.rank].clone().requires_grad_()
    gathered = collectives.gather_with_gradient(own, world)
    (weights[world.rank] * gathered**2).sum().backward()
    world.close()
    return gathered.detach(), own.grad


def unequal_shapes():
    world = World.from_environment()
    try:
        collectives.require_equal_shapes(torch.zeros(3 + world.rank, 2), world)
    except ShapeError as error:
        return str(error)
    finally:
        world.close()
