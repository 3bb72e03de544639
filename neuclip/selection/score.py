"""Scoring of one checkpoint on the selection split."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from neuclip.loading.selection_split import Pair, features_of
from neuclip.towers.held_out import held_out_recall
from neuclip.towers.towers import Towers
from neuclip.towers.with_encoder import reads_features, with_features


class CheckpointScore(BaseModel):
    """A row of scores.json: recall@1 of one checkpoint, shares of 0..1."""

    model_config = ConfigDict(frozen=True)

    step: int
    samples_seen: int
    model_sha256: str
    samples: int
    undecodable: int
    chance: float
    image_to_text_recall_at_1: float
    text_to_image_recall_at_1: float
    mean_recall_at_1: float
    mean_of: list[int] = []
    """The steps of the checkpoints that the weights are the mean of; none is a checkpoint itself."""


def value_of(score: CheckpointScore, metric: str) -> float:
    """Return what checkpoints are compared by."""
    return float(getattr(score, metric))


def score_towers(
    towers: Towers,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    step: int,
    samples_seen: int,
    model_sha256: str,
) -> CheckpointScore:
    """Score one checkpoint's towers; see `held_out_recall`.

    Raises: DataError: if no image decodes. NumericsError: if features are not finite.
    """
    if reads_features(towers):
        towers = with_features(towers, features_of(pairs))
    found = held_out_recall(
        towers,
        (pair.image for pair in pairs),
        [pair.caption for pair in pairs],
        batch_size=batch_size,
    )
    return CheckpointScore.model_validate(
        {
            "step": step,
            "samples_seen": samples_seen,
            "model_sha256": model_sha256,
            "samples": found.samples,
            "undecodable": found.undecodable,
            "chance": found.chance,
            **found.recalls,
        }
    )
