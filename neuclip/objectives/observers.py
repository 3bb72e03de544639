"""Objectives that watch a run without taking part: their normalizer estimates, for comparison.

Legend: B local batch, D embedding width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.foundation.config import Section
from neuclip.foundation.errors import ConfigError
from neuclip.objectives.objective import LogNormalizers, Objective
from neuclip.objectives.registry import build
from neuclip.objectives.temperature import Temperature


class Observers:
    """Further objectives that see the run's features and its temperature, and move no encoder.

    Args:
        sections: recipe sections by name; each of an objective with one temperature.
        temperature: the run's; observers share it.

    Raises:
        ConfigError: if a section's samples have temperatures of their own.
    """

    def __init__(
        self,
        sections: Mapping[str, Section | Mapping[str, Any]],
        temperature: Temperature,
        *,
        feature_dim: int,
        num_samples: int,
        seed: int,
        world: World,
    ) -> None:
        self.objectives: dict[str, Objective] = {}
        for name, section in sections.items():
            observer = build(
                section, feature_dim=feature_dim, num_samples=num_samples, seed=seed, world=world
            )
            if observer.learned_temperature is None:
                raise ConfigError(
                    f"observer {name!r} has a temperature for every sample and cannot share the "
                    "run's; use an objective with one temperature"
                )
            observer.learned_temperature = temperature
            self.objectives[name] = observer

    @torch.no_grad()
    def observe(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> None:
        """Let every observer take a step with the batch."""
        for observer in self.objectives.values():
            observer.train()
            observer(image_features, text_features, sample_ids)
            observer.completed_steps += 1

    def predict(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> dict[str, LogNormalizers]:
        """Return the estimates of the observers that have any."""
        found: dict[str, LogNormalizers] = {}
        for name, observer in self.objectives.items():
            estimates = observer.predict(image_features, text_features, sample_ids)
            if estimates is not None:
                found[name] = estimates
        return found

    def whole_state(self) -> dict[str, dict[str, Any]]:
        """Return every observer's whole state; all ranks must call it."""
        return {name: observer.whole_state() for name, observer in self.objectives.items()}

    def load_whole_state(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Take back what `whole_state` returned.

        Raises:
            CheckpointError: if it is of other observers.
        """
        for name, observer in self.objectives.items():
            observer.load_whole_state(state.get(name, {}))
