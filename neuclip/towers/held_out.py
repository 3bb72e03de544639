"""How well towers match held-out images with their captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

from neuclip.foundation.errors import DataError
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.recall import chance_at, groups_of, recall_both_ways
from neuclip.towers.towers import Towers


@dataclass(frozen=True)
class HeldOutRecall:
    """Recall@1 between held-out images and captions, shares of 0..1."""

    samples: int
    undecodable: int
    chance: float
    recalls: dict[str, float]
    """`image_to_text_recall_at_1`, `text_to_image_recall_at_1` and their `mean_recall_at_1`."""


def held_out_recall(
    towers: Towers, images: Iterable[bytes], captions: Sequence[str], *, batch_size: int
) -> HeldOutRecall:
    """Match every image with every caption; pairs with the same caption are the same to this measure.

    Args:
        images: image files, in the order of their captions; one that does not decode is left out with its caption.
        batch_size: images decoded and encoded at once.
    Raises: DataError: if no image decodes. NumericsError: if features are not finite.
    """
    image_features, decoded = encode_images(towers, images, batch_size=batch_size)
    kept = list(compress(captions, decoded))
    if not kept:
        raise DataError(f"none of the {len(captions)} images of the selection split decodes")
    text_features = encode_texts(towers, kept, batch_size=batch_size)
    groups = groups_of(kept)
    recalls = recall_both_ways(
        image_features, text_features, image_groups=groups, text_groups=groups, ks=(1,)
    )
    return HeldOutRecall(
        samples=len(kept),
        undecodable=len(captions) - len(kept),
        chance=chance_at(groups, groups),
        recalls=recalls,
    )
