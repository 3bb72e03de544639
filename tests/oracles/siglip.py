"""SigLIP as a double loop, from its definition; imports nothing of neuclip.

Legend as in contrastive.py; scale = 1 / tau, bias added to every logit. arXiv 2303.15343.
"""

import torch


def softplus(x):
    """log(1 + e^x), exact for all x: torch's own returns x above 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _block(images, texts, scale, bias, *, has_positives):
    total = 0.0
    for i in range(len(images)):
        for j in range(len(texts)):
            sign = 1 if has_positives and i == j else -1
            total = total + softplus(-sign * (scale * (images[i] @ texts[j]) + bias))
    return total / len(images)


def siglip(images, texts, scale, bias):
    """1/n sum_ij softplus(-z_ij (scale s_ij + bias)), z_ij 1 for own pairs and -1 otherwise."""
    return _block(images, texts, scale, bias, has_positives=True)


def siglip_of_rank(images, texts, scale, bias, *, rank, ranks):
    """What one of the ranks adds: its own block, and its images against the others' texts."""
    size = len(images) // ranks
    own = images[rank * size : (rank + 1) * size]
    total = 0.0
    for other in range(ranks):
        block = texts[other * size : (other + 1) * size]
        total = total + _block(own, block, scale, bias, has_positives=other == rank)
    return total
