"""Modules whose gradients, and on request whose weights, are shared out over ranks.

A tensor that is shared out (a DTensor) is cut along its first dimension, one piece a rank.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from neuclip.distributed.world import World


def replicate(module: nn.Module, world: World) -> nn.Module:
    """Return a module that is called like this one and averages its gradients over ranks."""
    if world.size == 1:
        return module
    # Views spare a copy of all gradients. A static graph and buckets of 5 or 100 MB changed nothing that two ranks
    # on CPUs could measure, and a static graph would not take micro-batches.
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def shard_out(
    module: nn.Module, blocks: Iterable[nn.Module], world: World, *, calls: Iterable[str]
) -> None:
    """Share out weights, gradients and so the optimiser's moments over ranks, in place.

    Each block's weights are whole only while it computes, the others during the whole step. Weights without
    gradient stay whole everywhere. Gradients are averaged over ranks.

    Args:
        calls: methods beside `forward` that compute with the weights.
    """
    if world.size == 1:
        return
    mesh = init_device_mesh(world.device.type, (world.size,))
    frozen = {p for p in module.parameters() if not p.requires_grad}
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, ignored_params=frozen)
    for name in calls:
        register_fsdp_forward_method(module, name)


def drop_whole(module: nn.Module) -> None:
    """Let go of weights put together for a forward pass that no backward pass has followed.

    To be called after shared-out weights were changed other than by a step.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Put together a tensor that is shared out over ranks, all of which call this; others are returned."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_main(tensor: Tensor) -> Tensor:
    """Put together a tensor that is shared out, in the main memory of rank 0; the other ranks get an empty one.

    All ranks call this, tensor by tensor, so that no device ever holds more than one whole. Others are returned.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if tensor.device_mesh.get_rank() == 0 else torch.empty(0)


def like(model: Tensor, tensor: Tensor) -> Tensor:
    """Cut a whole tensor, which every rank has, as another one of its shape is cut; else return it."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    tensor = tensor.to(model.device)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


@torch.no_grad()
def load_whole_(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Take a state_dict of whole tensors, which every rank has.

    Raises: RuntimeError: if names or shapes do not fit.
    """
    own = module.state_dict()
    cut = {name: like(own[name], x) if name in own else x for name, x in state.items()}
    module.load_state_dict(cut)
