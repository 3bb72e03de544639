"""The moving average of the weights, which a checkpoint's model then is."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neuclip.distributed.sharding import drop_whole, like, whole_on_main


class WeightAverage:
    """The exponential moving average of a model's learned parameters.

    Definition: average <- d average + (1 - d) weights after update t = 1, 2, ..., with
    d = min(decay, (1 + t) / (10 + t)), so that a short run forgets its first weights too. Buffers (a batch
    norm's running statistics) are averages already: the model's own stand beside the averaged weights.

    Source: the ramp is that of TensorFlow's ExponentialMovingAverage with num_updates.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._model = model
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(learned)
        self._weights: list[Tensor] = list(learned.values())
        self._averages = [p.detach().clone() for p in self._weights]
        self._decay = decay

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Take in the weights after an update; `num_updates` counts it."""
        decay = min(self._decay, (1 + num_updates) / (10 + num_updates))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, num_updates)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the model's names; every rank calls it, the main rank's are whole."""
        return {
            name: whole_on_main(average)
            for name, average in zip(self.names, self._averages, strict=True)
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the averages back."""
        for name, average in zip(self.names, self._averages, strict=True):
            average.copy_(like(average, state[name]))

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the model have the averages instead of its weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
        drop_whole(self._model)
