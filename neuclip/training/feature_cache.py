"""Encode a batch too large for one graph: first all its features, then the graph piece by piece.

Legend: B local batch, D embedding width.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from neuclip.loading.samples import Batch

Features = tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]
Encode = Callable[[Callable[[Tensor, Tensor], Features], Tensor, Tensor, int], Features]


class FeatureCache:
    """The two passes over the micro-batches of a batch.

    Definition: a loss sees the encoders through their features F alone, so its gradient is the sum
    over micro-batches m of (dF_m / dweights)^T dloss / dF_m. `fill` gives F without a graph, the
    objective dloss / dF of the whole batch at once, and `backward` the terms of the sum, of which
    one has a graph at a time. That is the gradient of the whole batch unless a pair's features
    depend on its neighbours: batch statistics are those of a micro-batch.

    Args:
        encoders: both towers as one module.
        parallel: what gradients are taken through: the encoders, or DDP around them.
        encode: calls a module with images and tokens. Random numbers inside must depend on nothing
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
    def fill(self, batch: Batch) -> Features:
        """Return the features of the whole batch as leaves that take a gradient."""
        # Running statistics are for `backward` to update; what this pass makes of them is dropped.
        buffers = {name: buffer.clone() for name, buffer in self._encoders.named_buffers()}

        def encoders(images: Tensor, tokens: Tensor) -> Features:
            return functional_call(self._encoders, buffers, (images, tokens))

        parts = [
            self._encode(encoders, images, tokens, number)
            for number, (images, tokens) in enumerate(self._split(batch.images, batch.tokens))
        ]
        image_features, text_features = (torch.cat(side) for side in zip(*parts, strict=True))
        return image_features.requires_grad_(), text_features.requires_grad_()

    def backward(self, batch: Batch, leaves: Features) -> None:
        """Carry the gradient that the leaves have received on to the encoders' weights."""
        gradients = [cast("Tensor", leaf.grad) for leaf in leaves]
        parts = self._split(batch.images, batch.tokens, *gradients)
        for number, (images, tokens, *slices) in enumerate(parts):
            # DDP averages over ranks what has been summed up so far: once is enough, at the end.
            is_early = number < len(parts) - 1
            ddp = self._parallel if isinstance(self._parallel, DistributedDataParallel) else None
            with ddp.no_sync() if ddp and is_early else nullcontext():
                features = self._encode(self._parallel, images, tokens, number)
                torch.autograd.backward(features, slices)

    def _split(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        return list(zip(*(tensor.split(self._micro_batch) for tensor in tensors), strict=True))
