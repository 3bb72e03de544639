"""Committed shards and index of drawn scenes, packed by the project's own stages."""

import sys
from pathlib import Path

from neuclip.demo.captions import write_caption
from neuclip.demo.scenes import draw, encode, make_scene
from neuclip.foundation.randomness import generator
from neuclip.shards.config import ShardConfig

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # what the tests make shards with

from made.acquired import Pair
from made.packed import Packed, pack

__all__ = ["Packed", "pack_scenes"]
_SEED, _VIEW, _SAMPLES_PER_SHARD = 0, 40, 256


def pack_scenes(root: Path, *, count: int, side_px: int) -> Packed:
    """Draw at least `count` training scenes as JPEG and pack them."""
    held_out = 0.05
    pairs = [_pair(number, side_px) for number in range(int(count * (1 + 2 * held_out)) + 64)]
    shard = ShardConfig(samples_per_shard=_SAMPLES_PER_SHARD, selection_share=held_out)
    return pack(root, [pairs], shard=shard)


def _pair(number: int, side_px: int) -> Pair:
    random = generator(_SEED, sample_id=number, view=_VIEW)
    scene = make_scene(random)
    return Pair(
        number,
        {"alt": [write_caption(scene, random)]},
        size=(side_px, side_px),
        content=encode(draw(scene, side_px)),
    )
