"""A batch of the size that a recipe trains with, of noise: to count what the towers do, and to measure it."""

import numpy as np
import torch

from neuclip.loading.batch import Batch
from neuclip.loading.masked import Masked
from neuclip.loading.visits import Visit
from neuclip.tokens.images.policy import PatchPolicy
from neuclip.tokens.mask import TokenMask
from neuclip.towers.cached_features import CachedFeatures
from neuclip.towers.towers import Towers
from neuclip.training.config import TrainConfig
from neuclip.training.tokens import patch_policy

_TEXT = "a photo of a cat " * 100


def example_batch(config: TrainConfig, towers: Towers, *, pairs: int, first_id: int = 0) -> Batch:
    """Return a batch in all views that the recipe's losses read, with as many tokens as in training.

    Args:
        config: of one phase.
        first_id: sample ids count from it.
    """
    images, texts = config.views_read
    ids = torch.arange(first_id, first_id + pairs)
    draws = np.random.default_rng(first_id)
    pixels = draws.integers(256, size=(pairs, 3, towers.image_px, towers.image_px), dtype=np.uint8)
    text = config.model.text
    if isinstance(text, CachedFeatures):
        tokens = torch.from_numpy(draws.normal(size=(pairs, text.width)).astype(np.float16))
    else:
        tokens = towers.tokenize([_TEXT]).expand(pairs, -1).contiguous()
    read, masked = dict.fromkeys(texts, tokens), dict[str, Masked]()
    visits = [Visit(0, 0, sample_id) for sample_id in ids.tolist()]
    for view, term in config.masked_views.items():
        read[view], masked[view] = TokenMask(term.share, towers.tokenize)(tokens, visits, view)
    policy = patch_policy(towers.architecture, config)
    return Batch(
        images={view: torch.from_numpy(pixels) for view in images},
        texts=read,
        sample_ids=ids,
        text_ids=dict.fromkeys(texts, ids),
        corrupt=[],
        cpu_ids=ids,
        patches={} if policy is None else {view: _drawn(policy, visits, view) for view in images},
        masked=masked,
    )


def _drawn(policy: PatchPolicy, visits: list[Visit], view: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([policy(visit.draws("patches", view)) for visit in visits]))
