"""Encode a batch too large for one graph: first all its features, then the graph piece by piece.

Legend: B local batch, D embedding width.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from neuclip.loading.batch import Batch, Inputs
from neuclip.objectives.encoded import View
from neuclip.training.encoders import Views

Sides = tuple[Views, Views]
Encode = Callable[[Callable[..., Sides], Inputs, int], Sides]


class FeatureCache:
    """The two passes over the micro-batches of a batch.

    Definition: a loss sees the encoders through their features F alone, so its gradient is the sum
    over micro-batches m of (dF_m / dweights)^T dloss / dF_m. `fill` gives F without a graph, the
    loss dloss / dF of the whole batch at once, and `backward` the terms of the sum, of which
    one has a graph at a time. That is the gradient of the whole batch unless a pair's features
    depend on its neighbours: batch statistics are those of a micro-batch.

    Args:
        encoders: both towers as one module.
        parallel: what gradients are taken through: the encoders, or DDP around them.
        encode: calls a module with the inputs of a batch. Random numbers inside must depend on nothing
            that changes between the passes; the micro-batch's number tells them apart.
        micro_batch: image-text pairs that have a graph at once.

    Source: GradCache, arXiv 2101.06983, section 3.2; tests/training/test_micro_batches.py.
    """

    def __init__(
        self, encoders: nn.Module, parallel: nn.Module, *, encode: Encode, micro_batch: int
    ) -> None:
        self._encoders, self._parallel = encoders, parallel
        self._encode, self._micro_batch = encode, micro_batch

    @torch.no_grad()
    def fill(self, batch: Batch) -> Sides:
        """Return the features of the whole batch as leaves that take a gradient."""
        # Running statistics are for `backward` to update; what this pass makes of them is dropped.
        buffers = {name: buffer.clone() for name, buffer in self._encoders.named_buffers()}

        def encoders(*inputs: dict[str, Tensor]) -> Sides:
            return functional_call(self._encoders, buffers, inputs)

        parts = [
            self._encode(encoders, inputs, number)
            for number, inputs in enumerate(self._split(batch))
        ]
        image_parts, text_parts = zip(*parts, strict=True)
        return _joined(image_parts), _joined(text_parts)

    def backward(self, batch: Batch, leaves: Sides) -> None:
        """Carry the gradient that the leaves have received on to the encoders' weights."""
        gradients = [leaf.grad for leaf in tensors_of(leaves)]
        count = -(-len(batch.sample_ids) // self._micro_batch)
        for number, inputs in enumerate(self._split(batch)):
            # DDP averages over ranks what has been summed up so far: once is enough, at the end.
            ddp = self._parallel if isinstance(self._parallel, DistributedDataParallel) else None
            with ddp.no_sync() if ddp and number < count - 1 else nullcontext():
                features = tensors_of(self._encode(self._parallel, inputs, number))
                rows = slice(number * self._micro_batch, (number + 1) * self._micro_batch)
                used = [
                    (feature, gradient[rows])
                    for feature, gradient in zip(features, gradients, strict=True)
                    if gradient is not None and feature.requires_grad  # a frozen tower's do not
                ]
                torch.autograd.backward(
                    [feature for feature, _ in used], [gradient for _, gradient in used]
                )

    def _split(self, batch: Batch) -> Iterator[Inputs]:
        for first in range(0, len(batch.sample_ids), self._micro_batch):
            yield batch.inputs(rows=slice(first, first + self._micro_batch))


def tensors_of(sides: Sides) -> list[Tensor]:
    """Return all tensors of both sides, in one order."""
    return [
        tensor for side in sides for view in side.values() for tensor in view if tensor is not None
    ]


def _joined(parts: tuple[Views, ...]) -> Views:
    """Put the pieces of each view together, as leaves."""

    def leaf(pieces: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(pieces)).requires_grad_()

    return {
        name: View(
            leaf(part[name].raw for part in parts),
            leaf(part[name].unit for part in parts),
            None
            if first.states is None
            else leaf(x for part in parts if (x := part[name].states) is not None),
        )
        for name, first in parts[0].items()
    }
