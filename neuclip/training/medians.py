"""The last numbers of a run and their median, on the device: no step waits for it."""

import math

import torch
from torch import Tensor

WINDOW = 64


def no_numbers(device: torch.device) -> Tensor:
    """Return a window that holds nothing yet."""
    return torch.full((WINDOW,), math.nan, dtype=torch.float64, device=device)


def with_number(window: Tensor, number: Tensor, *, is_kept: Tensor) -> Tensor:
    """Return the window with one more number in the place of the oldest, if it is to be kept."""
    number = number.double()
    return torch.where(is_kept, torch.cat([window[1:], number[None]]), window)


def known_of(window: Tensor) -> Tensor:
    """Return what a checkpoint holds of a window, the oldest first."""
    return window[~window.isnan()]


def window_of(known: Tensor, device: torch.device) -> Tensor:
    """Return the window that a checkpoint tells."""
    window = no_numbers(device)
    window[WINDOW - len(known) :] = known.to(window)
    return window


def median(values: Tensor) -> Tensor:
    """Return the median of those that are not nan, the mean of the middle two; nan where there are none."""
    ordered = values.sort().values  # nan comes last
    count = (~values.isnan()).sum()
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count.clamp(max=len(values) - 1) // 2])
    return ordered.gather(0, middle).mean()
