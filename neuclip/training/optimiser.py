"""AdamW over the encoders and the objective's own parameters."""

import torch
from torch import nn

from neuclip.objectives.objective import Objective
from neuclip.training.config import TrainConfig
from neuclip.training.schedule import learning_rate


def build_optimiser(
    encoders: nn.Module, objective: Objective, config: TrainConfig
) -> torch.optim.AdamW:
    """Group the parameters and make the optimiser.

    Matrices decay; biases, gains and the objective's parameters do not.
    """
    learned = [parameter for parameter in encoders.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups += [{"params": group.parameters, "weight_decay": 0.0} for group in objective.trainable()]
    # Zero parameters of a kind make an empty group, which torch accepts; the order of groups is part of the state.
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.adam_eps, fused=True
    )


def set_learning_rate(
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    config: TrainConfig,
    *,
    step: int,
    total_steps: int,
) -> float:
    """Set the rates of update `step` and return the encoders' one."""
    scheduled = learning_rate(
        step,
        peak=config.lr,
        least=config.min_lr,
        warmup_steps=config.warmup_steps,
        total_steps=total_steps,
    )
    own = objective.trainable()
    num_encoder_groups = len(optimiser.param_groups) - len(own)
    for group in optimiser.param_groups[:num_encoder_groups]:
        group["lr"] = scheduled
    for group, asked in zip(optimiser.param_groups[num_encoder_groups:], own, strict=True):
        group["lr"] = (scheduled if asked.lr is None else asked.lr) * asked.lr_factor
    return scheduled


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Return the moments of every parameter as tensors by number; rates follow from the step and are left out."""
    return {
        str(number): dict(moments) for number, moments in optimiser.state_dict()["state"].items()
    }


def load_optimiser_state(
    optimiser: torch.optim.Optimizer, state: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Take the moments back."""
    whole = optimiser.state_dict()
    whole["state"] = {int(number): moments for number, moments in state.items()}
    optimiser.load_state_dict(whole)
