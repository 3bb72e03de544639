"""How well an encoder finds the other caption of an image: what tuning is to raise."""

from collections.abc import Sequence

import torch

from neuclip.text_encoder.encoder import Features, TextEncoder
from neuclip.towers.recall import recall_both_ways
from neuclip.tuning.triples import TwoKinds


def caption_retrieval(
    encoder: TextEncoder, pairs: Sequence[TwoKinds], *, batch_tokens: int
) -> dict[str, float]:
    """Return recall@1 from short texts to long ones and back by cosine, shares of 0..1; without instructions.

    The first text of each kind counts; of pairs that share a text with an earlier one, that one alone, since both
    would be right.
    """
    seen: set[str] = set()
    texts: list[tuple[str, str]] = []
    for pair in pairs:
        short, long = pair.short[0], pair.long[0]
        if not seen & {short, long}:
            texts.append((short, long))
            seen |= {short, long}
    short, long = (
        _unit(encoder.encode(list(side), batch_tokens=batch_tokens)[0])
        for side in zip(*texts, strict=True)
    )
    own = torch.arange(len(texts))
    found = recall_both_ways(short, long, image_groups=own, text_groups=own, ks=(1,))
    return {
        "pairs": len(texts),
        "short_to_long": found["image_to_text_recall_at_1"],
        "long_to_short": found["text_to_image_recall_at_1"],
    }


def _unit(features: Features) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(features).float(), dim=1)
