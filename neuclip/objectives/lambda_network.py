"""The networks of AmorLIP that learn log partition functions by regression.

Legend: S side (0 image anchors, 1 text anchors), B local anchors, D embedding width, H hidden width.
"""

from copy import deepcopy
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.objectives.config import AmorLipConfig

_SEED_FACTOR = 1_000_003


class LambdaNetwork(nn.Module):
    """One side's network: an embedding's log lambda.

    Definition: Linear(D, H) - ReLU - LayerNorm - Linear(H, D) - ReLU - LayerNorm, plus the
    embedding, ReLU, Linear(D, 1).
    """

    def __init__(self, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(feature_dim, hidden_dim),
            nn.ReLU(),
            nn.LayerNorm(hidden_dim),
            nn.Linear(hidden_dim, feature_dim),
            nn.ReLU(),
            nn.LayerNorm(feature_dim),
        )
        self.head = nn.Linear(feature_dim, 1)

    def forward(self, features_BD: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return log lambda, nats."""
        return self.head(torch.relu(features_BD + self.body(features_BD)))[:, 0]


class LambdaNetworks(nn.Module):
    """Both sides' networks, their moving average, and that average as the last epoch left it.

    The networks start anew in every epoch; the average does not.

    Source: AmorLIP, arXiv 2505.18983.
    """

    def __init__(self, config: AmorLipConfig, *, feature_dim: int, seed: int, world: World) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = feature_dim
        self.seed = seed
        self.world = world
        self.fitted_epoch = 0
        self.num_updates = 0
        self.fitted = self._fresh(0)
        self.average = deepcopy(self.fitted).requires_grad_(requires_grad=False)
        self.previous = deepcopy(self.average)
        self.optimiser = torch.optim.Adam(self.fitted.parameters(), lr=config.inner_lr)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counters and Adam's moments by parameter number: tensors only."""
        moments = self.optimiser.state_dict()["state"]
        return {
            "counters": torch.tensor([self.fitted_epoch, self.num_updates]),
            "moments": {str(number): dict(values) for number, values in moments.items()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the counters and Adam's moments from a saved state."""
        self.fitted_epoch, self.num_updates = (int(value) for value in state["counters"])
        self._restart_optimiser()
        whole = self.optimiser.state_dict()
        # Copies, since torch keeps what it is given and counts steps in place.
        whole["state"] = {
            int(number): {name: value.clone() for name, value in values.items()}
            for number, values in state.get("moments", {}).items()
        }
        self.optimiser.load_state_dict(whole)

    @torch.no_grad()
    def predict(
        self, networks: nn.ModuleList, features_SBD: Float[Tensor, "2 B D"]
    ) -> Float[Tensor, "2 B"]:
        """Return log lambda of the anchors by one of the three pairs of networks."""
        return _log_lambda(networks, features_SBD)

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch, if it has not begun: remember the average, make the networks new."""
        if epoch == self.fitted_epoch:
            return
        self.fitted_epoch = epoch
        self.previous.load_state_dict(self.average.state_dict())
        fresh = self._fresh(epoch).to(next(self.fitted.parameters()))
        self.fitted.load_state_dict(fresh.state_dict())
        self._restart_optimiser()

    @torch.enable_grad()
    def fit(
        self, features_SBD: Float[Tensor, "2 B D"], log_targets_SB: Float[Tensor, "2 B"]
    ) -> None:
        """Regress the networks on the targets of one global batch, and move the average."""
        for _ in range(self.config.inner_steps):
            error_SB = _log_lambda(self.fitted, features_SBD) - log_targets_SB
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward([error_SB.square().mean(dim=1).sum()])
            average_gradients(self.fitted.parameters(), self.world)
            self.optimiser.step()
        # Not the trainer's: it averages and updates what has a gradient.
        self.optimiser.zero_grad(set_to_none=True)
        self.num_updates += 1
        if self.num_updates % self.config.average_every == 0:
            self._move_average()

    @torch.no_grad()
    def _move_average(self) -> None:
        for kept, new in zip(self.average.parameters(), self.fitted.parameters(), strict=True):
            kept.lerp_(new, 1 - self.config.average_decay)

    def _fresh(self, epoch: int) -> nn.ModuleList:
        """Return networks as they are at the start of an epoch, the same on all ranks."""
        hidden_dim = self.config.hidden_factor * self.feature_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * _SEED_FACTOR + epoch)
            return nn.ModuleList(LambdaNetwork(self.feature_dim, hidden_dim) for _ in range(2))

    def _restart_optimiser(self) -> None:
        self.optimiser = torch.optim.Adam(self.fitted.parameters(), lr=self.config.inner_lr)


def _log_lambda(networks: nn.ModuleList, features_SBD: Tensor) -> Tensor:
    dtype = cast("Tensor", next(networks.parameters())).dtype
    sides = zip(networks, features_SBD.to(dtype), strict=True)
    return torch.stack([network(features_BD) for network, features_BD in sides])
