"""Nearest-neighbour supervision: an image is told a text like its own.

Legend: B local batch, G global batch, N texts kept, D embedding width, tau temperature.
"""

import math
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.loading.visits import MAIN
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.estimators.recent_pairs import RecentPairs
from neuclip.objectives.terms.config import NeighboursConfig
from neuclip.objectives.terms.term import About, Term, TermResult


class Neighbours(Term):
    """InfoNCE from images to the nearest neighbours of their texts in a queue of past texts.

    Definition: mean over views a of the image and b of the text of c(I_a, N(T_b)), with N(T) the row of the queue of
    the largest cosine with T, without gradient, and c the mean over images i of -log softmax_j(cos(I_i, N_j) / tau) at
    j = i, over the neighbours of the whole batch but those of the same sample. Two samples may have one neighbour; if
    all have the same, c is ln G. The queue is one for all ranks, first in first out; after the lookups it takes the
    view `main` of the batch. Until it is full the term is 0 and costs nothing.

    The text itself may be in the queue, from the epoch before, if that holds more texts than the data set.

    Source: DeCLIP, arXiv 2110.05208, L_NNS; oracle in tests/oracles/supervision.py.
    """

    def __init__(self, config: NeighboursConfig, name: str, about: About) -> None:
        super().__init__(config, name, about)
        self.queue = RecentPairs(config.queue, about.feature_dim, sides=1)

    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss, nats; see `Term.forward`."""
        ids_G = all_gather(encoded.sample_ids, self.world)
        result = TermResult(temperature.new_zeros(()), {})
        with torch.autocast(encoded.sample_ids.device.type, enabled=False):
            if self.queue.is_full:
                is_other_BG = encoded.sample_ids[:, None] != ids_G
                result = self._result(encoded, is_other_BG, temperature)
            if self.training:
                texts_GD = all_gather(encoded.texts[MAIN].unit, self.world)
                self.queue.add(texts_GD[None], ids_G)
        return result

    def _result(
        self, encoded: Encoded, is_other_BG: Bool[Tensor, "B G"], temperature: Float[Tensor, ""]
    ) -> TermResult:
        found = {name: self._nearest(encoded.texts[name].unit) for name in self.views.texts}
        losses = [
            image_to_neighbour(
                encoded.images[image].unit,
                own_BD,
                all_gather(own_BD, self.world),
                is_other_BG,
                temperature,
            )
            for image, (own_BD, _, _) in product(self.views.images, found.values())
        ]
        _, places_B, cosine_B = found[next(iter(found))]
        is_same_BG = places_B[:, None] == all_gather(places_B, self.world)
        # Of which neighbour the batch's texts have, as a share of its most, ln G.
        entropy = -is_same_BG.float().mean(dim=1).log().mean() / math.log(is_same_BG.shape[1])
        metrics: dict[str, float | Tensor] = {"cosine": cosine_B.mean(), "entropy": entropy}
        return TermResult(torch.stack(losses).mean(), metrics)

    @torch.no_grad()
    def _nearest(
        self, texts_BD: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B D"], Int[Tensor, " B"], Float[Tensor, " B"]]:
        """Return each text's nearest neighbour, its place in the queue, and the cosine."""
        (rows_ND,), _ = self.queue.held()
        cosine_B, places_B = (texts_BD.to(rows_ND.dtype) @ rows_ND.T).max(dim=1)
        return rows_ND[places_B], places_B, cosine_B


def image_to_neighbour(
    images_BD: Float[Tensor, "B D"],
    own_BD: Float[Tensor, "B D"],
    all_GD: Float[Tensor, "G D"],
    is_other_BG: Bool[Tensor, "B G"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return the mean loss of local images against the neighbours of the global batch, nats."""
    images_BD = images_BD.to(torch.promote_types(images_BD.dtype, own_BD.dtype))
    own_B = (images_BD * own_BD).sum(dim=1) / temperature
    logits_BG = images_BD @ all_GD.to(images_BD.dtype).T / temperature
    others_B = torch.logsumexp(logits_BG.masked_fill(~is_other_BG, -torch.inf), dim=1)
    return (torch.logaddexp(others_B, own_B) - own_B).mean()
