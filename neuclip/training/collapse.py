"""Signs that a run has collapsed: its features tell samples no longer apart."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from neuclip.loading.visits import MAIN
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.objective import ObjectiveResult
from neuclip.objectives.spread import spread
from neuclip.training.collapse_config import CollapseConfig

_SHARE = "infonce_share"


def signs_of(encoded: Encoded, result: ObjectiveResult, *, global_batch: int) -> dict[str, Tensor]:
    """Return what a batch shows: the spread of both sides' features, and InfoNCE's loss as a share of ln of the batch.

    A loss of ln G is what features give that are all the same. Objectives without a softmax have no such share.
    """
    found = {
        "image_spread": spread(encoded.images[MAIN].unit),
        "text_spread": spread(encoded.texts[MAIN].unit),
    }
    if result.pair_losses is not None:
        found[_SHARE] = result.pair_losses.mean() / (2 * math.log(global_batch))
    return found


class CollapseAlarm:
    """Listens to the lines of a run's metrics.

    Definition: a sign is there if a spread of features (the towers' or a head's) is below `least_spread`, the entropy
    of neighbours as a share of its most below `least_entropy`, or InfoNCE's loss within `loss_tolerance` of ln of the
    batch. The alarm is on once one sign has been there in `lines` lines in a row, warm-ups left out.

    Args:
        warm_ups: the steps of each phase's warm-up.
    """

    def __init__(self, config: CollapseConfig, warm_ups: Sequence[range]) -> None:
        self._config, self._warm_ups = config, warm_ups
        self._in_a_row: Counter[str] = Counter()
        self.message = ""
        """What was found, in words; empty while nothing was."""

    def hear(self, line: Mapping[str, Any]) -> bool:
        """Take in the next line; return whether it is the one that sets the alarm off."""
        if any(line["step"] in steps for steps in self._warm_ups):
            self._in_a_row.clear()
            return False
        if "lr" not in line:  # a batch passed over has no numbers
            return False
        there = {
            name: value
            for name, value in line.items()
            if (is_sign := self._test_of(name)) and isinstance(value, float) and is_sign(value)
        }
        self._in_a_row = Counter({name: self._in_a_row[name] + 1 for name in there})
        lasting = [name for name, count in self._in_a_row.items() if count >= self._config.lines]
        if self.message or not lasting:
            return False
        told = ", ".join(f"{name} {there[name]:.3g}" for name in lasting)
        self.message = (
            f"features tell samples no longer apart at step {line['step']}: {told} in {self._config.lines} lines of "
            "metrics in a row; lower train.lr or the weights of terms, or lengthen train.warmup_steps"
        )
        return True

    def hear_all(self, lines: Iterable[str]) -> None:
        """Take in the lines that a run wrote before it was stopped."""
        for line in lines:
            self.hear(json.loads(line))

    def _test_of(self, name: str) -> Callable[[float], bool] | None:
        if name.endswith("_spread"):
            return lambda value: value < self._config.least_spread
        if name.endswith("_entropy"):
            return lambda value: value < self._config.least_entropy
        if name == _SHARE:
            return lambda value: abs(value - 1) < self._config.loss_tolerance
        return None
