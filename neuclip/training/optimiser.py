"""The optimiser over the encoders and the objective's own parameters."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim.lamb import Lamb
from timm.optim.lion import Lion
from torch import Tensor, nn

from neuclip.distributed.sharding import like, whole_on_main
from neuclip.objectives.loss_part import TrainableGroup
from neuclip.towers.depth import TOWERS, depths_of
from neuclip.training.config import TrainConfig
from neuclip.training.phases import Phase
from neuclip.training.schedule import learning_rate

OptimiserState = dict[str, dict[str, dict[str, Tensor]]]
_WITHOUT_DECAY = ("bn", "ln", "bias")
_SHARE, _NAMES = "lr_share", "names"


def build_optimiser(
    encoders: nn.Module, others: Sequence[TrainableGroup], config: TrainConfig
) -> torch.optim.Optimizer:
    """Group the parameters and make the optimiser.

    Matrices decay, embeddings of tokens and positions too; biases, gains and the class embedding do not, and of the
    losses' own parameters those of groups that say so.

    Source: open_clip_train.main, tests/training/test_optimisers.py.
    """
    model = encoders.get_submodule("model")
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    share_of = lr_shares(model, config.layer_decay)
    groups: list[dict[str, Any]] = []
    for share in sorted({share_of[name] for name, _ in learned}, reverse=True):
        own = [(name, p) for name, p in learned if share_of[name] == share]
        for decay, is_for in ((config.weight_decay, True), (0.0, False)):
            chosen = [(name, p) for name, p in own if decays(name, p) == is_for]
            groups.append(
                {
                    "params": [p for _, p in chosen],
                    _NAMES: [name for name, _ in chosen],
                    "weight_decay": decay,
                    _SHARE: share,
                }
            )
    for number, group in enumerate(others):
        decay = config.weight_decay if group.decays else 0.0
        names = [f"loss.{number}.{place}" for place in range(len(group.parameters))]
        groups.append({"params": group.parameters, _NAMES: names, "weight_decay": decay})
    # A group may be empty, which torch accepts; the order of groups is part of the state.
    lr, betas, eps = config.lr, config.betas, config.adam_eps
    match config.optimiser:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
        case "lamb":  # the trainer clips, with its own norm
            return Lamb(groups, lr=lr, betas=betas, eps=eps, max_grad_norm=None)
        case "lion":
            return Lion(groups, lr=lr, betas=betas)


def decays(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay is for this parameter of the encoders."""
    return parameter.ndim >= 2 and not any(part in name for part in _WITHOUT_DECAY)


def lr_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return what the learning rate of each parameter of the towers is multiplied by.

    Definition: layer_decay to the power of the layers from a parameter's own up to the last one of its tower, which
    has the full rate; see towers.depth. Source: BEiT, arXiv 2106.08254; timm's param_groups_layer_decay,
    tests/training/test_layer_decay.py.
    """
    names = [name for name, _ in model.named_parameters()]
    if layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    shares: dict[str, float] = {}
    for tower in TOWERS:
        depths = depths_of(model, tower)
        for name, layer in depths.layer_of.items():
            shares[name] = layer_decay ** (depths.num_blocks + 1 - layer)
    return shares


def hold_back(optimiser: torch.optim.Optimizer, is_bad: Tensor) -> bool:
    """Let the next step change nothing where a number on the device is 1; return whether the optimiser can do so.

    AdamW's fused kernels read the number themselves, as they do for a gradient scaler; nothing waits for the device.
    """
    if not isinstance(optimiser, torch.optim.AdamW):
        return False
    optimiser.found_inf = is_bad  # pyright: ignore[reportAttributeAccessIssue]  # torch's own protocol
    return True


def set_learning_rate(
    optimiser: torch.optim.Optimizer,
    others: Sequence[TrainableGroup],
    phase: Phase,
    *,
    step: int,
) -> float:
    """Set the rates of update `step` and return the encoders' one.

    Args:
        others: the losses' own parameters, as the optimiser was built with.
    """
    config = phase.config
    scheduled = learning_rate(
        step - phase.first,
        peak=config.lr,
        least=config.min_lr,
        warmup_steps=config.warmup_steps,
        total_steps=phase.last - phase.first,
        schedule=config.schedule,
        cooldown_steps=config.cooldown_steps,
        cooldown_power=config.cooldown_power,
    )
    num_encoder_groups = len(optimiser.param_groups) - len(others)
    for group in optimiser.param_groups[:num_encoder_groups]:
        group["lr"] = scheduled * group[_SHARE]
    for group, asked in zip(optimiser.param_groups[num_encoder_groups:], others, strict=True):
        rate = (scheduled if asked.lr is None else asked.lr) * asked.lr_factor
        group["lr"] = _known(rate, optimiser) if isinstance(rate, Tensor) else rate
    return scheduled


def _known(rate: Tensor, optimiser: torch.optim.Optimizer) -> Tensor | float:
    """Return a rate that only the device knows as the optimiser takes it."""
    if not isinstance(optimiser, torch.optim.AdamW):
        return rate.item()
    return rate.float() if rate.is_cuda else rate  # torch's kernels for CUDA read a float32


def named_parameters(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what the optimiser updates by name, in its order."""
    return {
        name: parameter
        for group in optimiser.param_groups
        for name, parameter in zip(group[_NAMES], group["params"], strict=True)
    }


def optimiser_state(optimiser: torch.optim.Optimizer) -> OptimiserState:
    """Return the moments of every parameter by name, and the clocks of groups.

    Every rank calls it; what is shared out is whole on the main rank alone. Rates follow from the step and
    are left out.
    """
    state, names = optimiser.state_dict(), list(named_parameters(optimiser))
    moments = {
        names[number]: {name: whole_on_main(x) for name, x in own.items() if isinstance(x, Tensor)}
        for number, own in state["state"].items()
    }
    clocks = {
        str(number): {"step": group["step"]}
        for number, group in enumerate(state["param_groups"])
        if "step" in group  # LAMB counts its updates by group
    }
    return {"moments": moments, "clocks": clocks}


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: OptimiserState) -> None:
    """Take the state back, cut as the parameters are.

    Raises: ValueError: if it is of a parameter that is not learned here.
    """
    parameters = named_parameters(optimiser)
    number_of = {name: number for number, name in enumerate(parameters)}
    all_state = optimiser.state_dict()
    moments = state.get("moments", {})
    if unknown := sorted(moments.keys() - number_of.keys()):
        raise ValueError(f"the optimiser's state has moments of {unknown[0]}, which is not learned")
    all_state["state"] = {
        number_of[of]: {name: like(parameters[of], x) for name, x in own.items()}
        for of, own in moments.items()
    }
    for number, clock in state.get("clocks", {}).items():
        all_state["param_groups"][int(number)]["step"] = clock["step"]
    optimiser.load_state_dict(all_state)
