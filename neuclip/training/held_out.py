"""The score of a checkpoint: how well its towers match held-out pairs."""

from neuclip.loading.selection_split import read_selection_split
from neuclip.towers.held_out import held_out_recall
from neuclip.towers.model import Towers

_BATCH = 256


class HeldOut:
    """The first pairs of the selection split, read once.

    Raises: DataError: if the split is too small, which the select stage could not use either.
    """

    def __init__(self, shard_uri: str, *, max_samples: int) -> None:
        self._pairs = read_selection_split(shard_uri, max_samples=max_samples)

    def recall(self, towers: Towers) -> float:
        """Return the mean recall@1 of both directions, 0..1; the towers are left in training mode."""
        towers.model.eval()
        found = held_out_recall(
            towers,
            (pair.image for pair in self._pairs),
            [pair.caption for pair in self._pairs],
            batch_size=_BATCH,
        )
        towers.model.train()
        return found.recalls["mean_recall_at_1"]
