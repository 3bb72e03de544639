"""The loss of caption-contrastive tuning.

Legend: B triples, F width of a feature.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def contrastive_loss(
    queries: Float[Tensor, "B F"],
    positives: Float[Tensor, "B F"],
    negatives: Float[Tensor, "B F"] | None = None,
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the mean over queries of -log of the share that the own positive has among all candidates.

    Definition: with cosines c and candidates p_1 .. p_B, n_1 .. n_B,
    loss_i = -c(q_i, p_i) / tau + log(sum_j exp(c(q_i, p_j) / tau) + sum_j exp(c(q_i, n_j) / tau)). One way: queries
    look for documents. Without negatives it is one-way InfoNCE, and negatives never lower it.
    Source: LLM2CLIP, arXiv 2411.04997, after supervised SimCSE, arXiv 2104.08821.
    """
    documents = positives if negatives is None else torch.cat([positives, negatives])
    cosines = normalize(queries.float(), dim=1) @ normalize(documents.float(), dim=1).T
    own = torch.arange(len(queries), device=queries.device)
    return cross_entropy(cosines / temperature, own)
