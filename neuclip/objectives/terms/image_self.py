"""Self-supervision of images: one view of an image tells of another.

Legend: B local batch, G global batch, D embedding width, P width of a head's output.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from neuclip.distributed.collectives import all_gather, gather_with_gradient
from neuclip.distributed.world import World
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.spread import spread
from neuclip.objectives.terms.config import ImageSelfConfig
from neuclip.objectives.terms.heads import in_own_precision, mlp, new_weights
from neuclip.objectives.terms.term import About, Term, TermResult


class ImageSelf(Term):
    """SimSiam or SimCLR over two views of each image, on the embeddings as the tower gives them.

    Definition of `simsiam`: -1/2 mean_i [cos(h(g(v1)), sg g(v2)) + cos(h(g(v2)), sg g(v1))], in -1 .. 1; g has three
    layers, h two, batch norms are of the batch of all ranks, and sg stops the gradient.
    Definition of `simclr`: the mean over both views' anchors of -log softmax at the other view, of cos / temperature to
    both views of all images but to the anchor itself and other views of its own sample.

    Source: SimSiam, arXiv 2011.10566; SimCLR, arXiv 2002.05709; DeCLIP, arXiv 2110.05208, L_ISS; SLIP, arXiv
    2112.12750. Oracles in tests/oracles/supervision.py.
    """

    def __init__(self, config: ImageSelfConfig, name: str, about: About) -> None:
        super().__init__(config, name, about)
        self._config = config
        hidden, output = config.widths
        widths, is_simsiam = [about.feature_dim, hidden, hidden, output], config.method == "simsiam"

        def heads() -> nn.ModuleDict:
            found = {"project": mlp(widths, world=about.world, norm_last=is_simsiam)}
            if is_simsiam:
                inner = [output, config.bottleneck, output]
                found["predict"] = mlp(inner, world=about.world, norm_last=False)
            return nn.ModuleDict(found)

        self.heads = new_weights(heads, seed=about.seed, name=name)

    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss; see `Term.forward`."""
        del temperature
        with torch.autocast(encoded.sample_ids.device.type, enabled=False):
            raw = (
                in_own_precision(self.heads, encoded.images[name].raw) for name in self.views.images
            )
            one, two = (self.heads["project"](x) for x in raw)
            if self._config.method == "simsiam":
                predicted = self.heads["predict"](one), self.heads["predict"](two)
                loss = simsiam(*predicted, one, two)
            else:
                ids = encoded.sample_ids
                is_own_BG = ids[:, None] == all_gather(ids, self.world)
                loss = simclr(one, two, is_own_BG, self._config.temperature, self.world)
        return TermResult(loss, {"spread": spread(normalize(one.detach(), dim=1))})


def simsiam(
    predicted_one: Float[Tensor, "B P"],
    predicted_two: Float[Tensor, "B P"],
    one: Float[Tensor, "B P"],
    two: Float[Tensor, "B P"],
) -> Float[Tensor, ""]:
    """Return minus the mean cosine of each prediction with the other view, which gets no gradient."""
    cosines = (
        cosine_similarity(predicted_one, two.detach(), dim=1),
        cosine_similarity(predicted_two, one.detach(), dim=1),
    )
    return -torch.stack(cosines).mean()


def simclr(
    one: Float[Tensor, "B P"],
    two: Float[Tensor, "B P"],
    is_own_BG: Bool[Tensor, "B G"],
    temperature: float,
    world: World,
) -> Float[Tensor, ""]:
    """Return NT-Xent of the local anchors of both views, nats."""
    views = normalize(one, dim=1), normalize(two, dim=1)
    gathered = [gather_with_gradient(view, world) for view in views]
    own_B = (views[0] * views[1]).sum(dim=1) / temperature
    losses: list[Tensor] = []
    for anchors in views:
        logits_BX = anchors @ torch.cat(gathered).T / temperature
        others_BX = logits_BX.masked_fill(is_own_BG.repeat(1, 2), -torch.inf)
        normalizer_B = torch.logaddexp(torch.logsumexp(others_BX, dim=1), own_B)
        losses.append((normalizer_B - own_B).mean())
    return torch.stack(losses).mean()
