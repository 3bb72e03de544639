"""Which texts a run has learnt from so far, by view and source, over all ranks and all processes of the run."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import torch

from neuclip.distributed.collectives import gather_objects
from neuclip.distributed.world import World
from neuclip.loading.shown import Shown

_NO_SOURCE = "none"
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
"""What trackers take in no name of a number."""


class ShownTexts:
    """Counts the texts of each batch that moved the weights.

    The counts are in the checkpoints, so that a run which resumes has the numbers of one that nothing stopped.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._shown: dict[str, Shown] = {}

    def note(self, shown: Mapping[str, Shown]) -> None:
        """Count the texts of this rank's share of a batch."""
        for view, found in shown.items():
            self._shown[view] = self._shown.get(view, Shown()) + found

    def total(self) -> dict[str, Shown]:
        """Return the counts of all ranks by view; every rank calls it."""
        total: dict[str, Shown] = {}
        for of_rank in gather_objects(self._shown, self._world):
            for view, found in of_rank.items():
                total[view] = total.get(view, Shown()) + found
        return total

    def state(self) -> dict[str, Any]:
        """Return the total as a checkpoint holds it; every rank calls it."""
        return {
            view: {
                "stand_ins": torch.tensor(found.stand_ins),
                "by_source": {
                    quote(source, safe=""): torch.tensor(count)
                    for source, count in found.by_source.items()
                },
            }
            for view, found in self.total().items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take the total back: the main rank goes on from it, the others from nothing."""
        self._shown = {
            view: Shown(
                Counter({unquote(name): int(count) for name, count in found["by_source"].items()}),
                int(found["stand_ins"]),
            )
            for view, found in (state.items() if self._world.is_main else ())
        }


def shares(total: Mapping[str, Shown]) -> dict[str, float]:
    """Return the counts as numbers for a line of metrics: of each view the share of every source, and of stand-ins."""
    numbers: dict[str, float] = {}
    for view, found in total.items():
        for source, count in sorted(found.by_source.items()):
            name = _NOT_IN_NAMES.sub("_", source) or _NO_SOURCE
            numbers[f"text_share_{view}_{name}"] = count / found.count
        numbers[f"text_standing_in_{view}"] = found.stand_ins / found.count
    return numbers
