"""Masked tokens of a text, guessed from the states of the text tower.

Legend: B local batch, L tokens of a context, M masked tokens of the local batch, W width of the text tower, V ids.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from neuclip.distributed.collectives import all_reduce_sum_
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.terms.config import MaskedTextConfig
from neuclip.objectives.terms.heads import in_own_precision, new_weights
from neuclip.objectives.terms.term import About, States, Term, TermResult

_STD = 0.02  # of open_clip's embeddings of tokens


class MaskedText(Term):
    """Cross-entropy of the chosen tokens, mean over those of all ranks.

    Definition: mean over chosen places of -log softmax_v(w_v . state + b_v) at the id that stands there, nats; 0 where
    the batch has none. The state is the text tower's after its last norm. A hidden token enters the tower as `mask`, a
    vector of this term's own: the published tower has no token for it.

    Source: DeCLIP, arXiv 2110.05208, L_TSS; oracle in tests/oracles/supervision.py.
    """

    def __init__(self, config: MaskedTextConfig, name: str, about: About) -> None:
        super().__init__(config, name, about)
        found = about.vocabulary()
        self._view, self._is_bidirectional = config.masked_view(name), config.bidirectional

        def weights() -> tuple[nn.Linear, Tensor]:
            guess = nn.Linear(found.state_width, found.size)
            nn.init.normal_(guess.weight, std=_STD)
            nn.init.zeros_(guess.bias)
            return guess, torch.randn(found.embedding_width) * _STD

        self.guess, mask = new_weights(weights, seed=about.seed, name=name)
        self.mask = nn.Parameter(mask)

    @property
    def states(self) -> Mapping[str, States]:
        """The masked view's; see `Term.states`."""
        return {self._view: States(self.mask, self._is_bidirectional)}

    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss, nats; see `Term.forward`."""
        del temperature
        states_BLW, masked = encoded.texts[self._view].states, encoded.masked[self._view]
        assert states_BLW is not None, "the encoders return states of the views in `states`"
        with torch.autocast(states_BLW.device.type, enabled=False):
            chosen_MW = states_BLW.flatten(0, 1)[masked.places]
            logits_MV = self.guess(in_own_precision(self.guess, chosen_MW))
            sum_ = cross_entropy(logits_MV, masked.ids, reduction="sum")
        # A sum of ones, so that no device is waited for; without any token it is 0 / 1.
        count = all_reduce_sum_(torch.ones_like(masked.ids).sum(), self.world)
        return TermResult(sum_ * self.world.size / count.clamp(min=1), {"tokens": len(masked.ids)})
