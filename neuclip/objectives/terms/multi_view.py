"""Multi-view supervision: each view of an image tells each view of its text from all others."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.loading.visits import MAIN
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.infonce import infonce
from neuclip.objectives.terms.config import MultiViewConfig
from neuclip.objectives.terms.term import About, Term, TermResult

_OWN = (MAIN, MAIN)
"""The pair of views that the objective has."""


class MultiView(Term):
    """The mean of InfoNCE over pairs of an image view and a text view.

    Definition: with `pairs: others`, the mean over all pairs (a, b) but that of both main views of
    C(I_a, T_b), C being the symmetric InfoNCE of the global batch at the objective's temperature; with
    `pairs: all`, over all of them. Views of one sample are no negatives of each other. Of a sample that is
    in the batch twice neither is a negative of the other.

    Source: DeCLIP, arXiv 2110.05208, L_MVS, and `L4` of its code (`all`); identities in
    tests/objectives/test_multi_view.py.
    """

    def __init__(self, config: MultiViewConfig, name: str, about: About) -> None:
        super().__init__(config, name, about)
        self._pairs = config.pairs

    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss, nats; see `Term.forward`."""
        pairs = list(product(*self.views))
        if self._pairs == "others":
            pairs = [pair for pair in pairs if pair != _OWN]
        sample_ids_G = all_gather(encoded.sample_ids, self.world)
        losses: list[Tensor] = []
        with torch.autocast(encoded.sample_ids.device.type, enabled=False):
            for image, text in pairs:
                batch = GlobalBatch.collect(
                    encoded.images[image].unit,
                    encoded.texts[text].unit,
                    encoded.sample_ids,
                    sample_ids_G=sample_ids_G,
                    reduction="gather",
                    world=self.world,
                )
                losses_SB, _ = infonce(batch, temperature)
                losses.append(losses_SB.mean())
        return TermResult(torch.stack(losses).mean(), {})
