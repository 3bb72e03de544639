"""One look at the numbers of a step, by all ranks together, before any weight changes."""

from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor, nn

from neuclip.distributed.collectives import all_reduce_sum_, gather_objects
from neuclip.distributed.sharding import whole
from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError

_MOST_IDS = 8


def gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients that are there, of whole tensors where they are shared out."""
    return whole(nn.utils.get_total_norm([x.grad for x in tensors if x.grad is not None]))


def require_finite(
    numbers: dict[str, Tensor], sample_ids: Tensor, *, step: int, world: World
) -> None:
    """Go on only if all numbers of all ranks are finite; costs one message and one wait for the device.

    Args:
        numbers: scalars by name, the first being the nearest to a cause.
    Raises: NumericsError: on every rank, naming the first number that is not, its ranks and their samples.
    """
    values = torch.stack([number.detach().float() for number in numbers.values()])
    num_bad = all_reduce_sum_((~torch.isfinite(values)).float(), world)
    if num_bad.any():
        _refuse(list(numbers), values, sample_ids, step=step, world=world)


def _refuse(
    names: list[str], values: Tensor, sample_ids: Tensor, *, step: int, world: World
) -> NoReturn:
    ranks = gather_objects((values, sample_ids[:_MOST_IDS].tolist()), world)
    is_bad = torch.stack([~torch.isfinite(found.cpu()) for found, _ in ranks])
    first = int(is_bad.any(dim=0).nonzero()[0])
    places = ", ".join(
        f"{float(found[first])} on rank {rank} at step {step}, sample ids {ids}..."
        for rank, (found, ids) in enumerate(ranks)
        if is_bad[rank, first]
    )
    raise NumericsError(
        f"the {names[first]} is {places}; lower train.lr or lengthen train.warmup_steps, then run again: "
        "training resumes from the last checkpoint"
    )
