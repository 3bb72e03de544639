"""Scoring of one checkpoint on the selection split."""

from collections.abc import Sequence
from itertools import compress

from pydantic import BaseModel, ConfigDict

from neuclip.foundation.errors import DataError
from neuclip.selection.split import Pair
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.model import Towers
from neuclip.towers.recall import chance_at_1, groups_of, recall_both_ways


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


def score_towers(
    towers: Towers,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    step: int,
    samples_seen: int,
    model_sha256: str,
) -> CheckpointScore:
    """Match every image with every caption; pairs with the same caption are the same to this measure.

    Raises: DataError: if no image decodes. NumericsError: if features are not finite.
    """
    image_features, decoded = encode_images(
        towers, (pair.image for pair in pairs), batch_size=batch_size
    )
    captions = [pair.caption for pair in compress(pairs, decoded)]
    if not captions:
        raise DataError(f"none of the {len(pairs)} images of the selection split decodes")
    text_features = encode_texts(towers, captions, batch_size=batch_size)
    groups = groups_of(captions)
    recalls = recall_both_ways(
        image_features, text_features, image_groups=groups, text_groups=groups, ks=(1,)
    )
    return CheckpointScore(
        step=step,
        samples_seen=samples_seen,
        model_sha256=model_sha256,
        samples=len(captions),
        undecodable=len(pairs) - len(captions),
        chance=chance_at_1(groups, groups),
        **recalls,
    )
