"""The score of a checkpoint: how well its towers match held-out pairs."""

from neuclip.loading.selection_split import features_of, read_selection_split
from neuclip.towers.held_out import held_out_recall
from neuclip.towers.with_encoder import reads_features, with_features
from neuclip.training.trainer import Trainer

_BATCH = 256


class HeldOut:
    """The first pairs of the selection split, read once.

    Raises: DataError: if the split is too small, which the select stage could not use either.
    """

    def __init__(self, shard_uri: str, index_uri: str, *, max_samples: int) -> None:
        self._pairs = read_selection_split(shard_uri, index_uri, max_samples=max_samples)

    def recall(self, trainer: Trainer) -> float:
        """Return the mean recall@1 of both directions, 0..1, of the weights a checkpoint publishes.

        Every rank calls it, since the weights may be shared out. The towers are left in training mode.
        """
        towers = trainer.towers
        if reads_features(towers):
            towers = with_features(towers, features_of(self._pairs))
        towers.model.eval()
        with trainer.published_weights():
            found = held_out_recall(
                towers,
                (pair.image for pair in self._pairs),
                [pair.caption for pair in self._pairs],
                batch_size=_BATCH,
            )
        towers.model.train()
        return found.recalls["mean_recall_at_1"]
