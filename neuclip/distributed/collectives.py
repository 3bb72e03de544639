"""What the processes of one run tell each other.

Legend: B local batch, G global batch = B times world size.
Every function is called by all ranks in the same order and is the identity at world size 1.
"""

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.foundation.errors import ShapeError

T = TypeVar("T")


def require_equal_shapes(tensor: Tensor, world: World) -> None:
    """Refuse to go on if this tensor's shape differs between ranks.

    It waits for the device, so call it once per run rather than once per step.

    Raises:
        ShapeError: on every rank, naming the shape of each.
    """
    if world.size == 1:
        return
    shapes = gather_objects(tuple(tensor.shape), world)
    if len(set(shapes)) > 1:
        listed = ", ".join(f"rank {rank}: {shape}" for rank, shape in enumerate(shapes))
        raise ShapeError(
            f"expected equal shapes on {world.size} ranks, found {listed}; "
            "give every rank the same local batch, for example by dropping the last partial one"
        )


def all_gather(tensor: Tensor, world: World) -> Tensor:
    """Join the [B, ...] tensors of all ranks to [G, ...] in rank order, without gradient.

    At size 1 the result shares memory with the argument.
    """
    if world.size == 1:
        return tensor.detach()
    gathered = tensor.new_empty(world.size * tensor.shape[0], *tensor.shape[1:])
    dist.all_gather_into_tensor(gathered, tensor.detach().contiguous())
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:  # noqa: ANN401
        ctx.local_shape = tensor.shape
        return all_gather(tensor, world)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        local_gradient = grad_outputs[0].new_empty(ctx.local_shape)
        dist.reduce_scatter_tensor(local_gradient, grad_outputs[0].contiguous())
        return local_gradient, None


def gather_with_gradient(tensor: Tensor, world: World) -> Tensor:
    """Join the [B, ...] tensors of all ranks to [G, ...], so that gradients find their way back.

    Definition: forward is `all_gather`; backward sums over ranks the gradient of each row and
    hands it to the rank that owns the row. So each rank receives the gradient of the SUM of the
    ranks' losses; averaging parameter gradients over ranks makes it that of their mean.
    """
    if world.size == 1:
        return tensor
    return cast("Tensor", _GatherWithGradient.apply(tensor, world))


class _RingShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World, hops: int) -> Tensor:  # noqa: ANN401
        ctx.world, ctx.hops = world, hops
        return _shift(tensor, world, hops)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return _shift(grad_outputs[0], ctx.world, -ctx.hops), None, None


def _shift(tensor: Tensor, world: World, hops: int) -> Tensor:
    received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    to, source = (world.rank + hops) % world.size, (world.rank - hops) % world.size
    # Sent and received as one group, so that no rank waits for another to receive first.
    pending = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, tensor.detach().contiguous(), to),
            dist.P2POp(dist.irecv, received, source),
        ]
    )
    for request in pending:
        request.wait()
    return received


def ring_shift(tensor: Tensor, world: World) -> Tensor:
    """Hand the tensor to the next rank and return that of the rank before, in a ring.

    Gradients travel the other way. Every rank's tensor has the same shape.
    """
    if world.size == 1:
        return tensor
    return cast("Tensor", _RingShift.apply(tensor, world, 1))


def all_reduce_sum_(tensor: Tensor, world: World) -> Tensor:
    """Replace the tensor, in place, by its sum over ranks; return it."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_mean_(tensor: Tensor, world: World) -> Tensor:
    """Replace the tensor, in place, by its mean over ranks; return it."""
    # gloo has no mean, hence the division here.
    return all_reduce_sum_(tensor, world).div_(world.size) if world.size > 1 else tensor


def average_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Replace each parameter's gradient, in place, by its mean over ranks.

    For parameters outside DDP. A parameter without gradient is passed over, so the same ones
    must have a gradient on every rank.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            all_reduce_mean_(parameter.grad, world)


def gather_objects(value: T, world: World) -> list[T]:
    """Return the values of all ranks in rank order; they travel pickled between trusted ranks."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.barrier()
