"""The contrastive objectives as loops, from their definitions; imports nothing of the package.

Legend: n pairs of unit-norm rows, tau temperature, eps added inside the log, s_ij cosine of
anchor i and contrast j, h_ij = s_ij - s_ii. Anchors against contrasts are images against texts;
the other side is the same with the arguments swapped. Give float64; gradients come from autograd.
"""

import torch


def inner_function(anchors, contrasts, i, members, tau):
    """g_i: mean over members j other than i of exp(h_ij / tau)."""
    own = anchors[i] @ contrasts[i]
    others = [j for j in members if j != i]
    return sum(torch.exp((anchors[i] @ contrasts[j] - own) / tau) for j in others) / len(others)


def inner_functions(anchors, contrasts, tau):
    n = len(anchors)
    return torch.stack([inner_function(anchors, contrasts, i, range(n), tau) for i in range(n)])


def infonce(images, texts, tau):
    """Mean over both sides and all anchors of -log softmax at the own pair."""
    n = len(images)
    total = 0.0
    for anchors, contrasts in ((images, texts), (texts, images)):
        for i in range(n):
            denominator = sum(torch.exp(anchors[i] @ contrasts[j] / tau) for j in range(n))
            total = total - torch.log(torch.exp(anchors[i] @ contrasts[i] / tau) / denominator)
    return total / (2 * n)


def log_loss(images, texts, tau, eps):
    """mean_i [log(eps + g1_i) + log(eps + g2_i)]; times tau it is GCL."""
    image_side = torch.log(eps + inner_functions(images, texts, tau))
    text_side = torch.log(eps + inner_functions(texts, images, tau))
    return (image_side + text_side).mean()


def rgcl_g(images, texts, tau, eps, rho):
    """The global contrastive loss with one learned temperature."""
    return tau * log_loss(images, texts, tau, eps) + 2 * rho * tau


def fastclip_v0_surrogate(images, texts, tau, eps):
    """mean_i [g1_i / (eps + sg g1_i) + g2_i / (eps + sg g2_i)], for its gradient only."""
    g1, g2 = inner_functions(images, texts, tau), inner_functions(texts, images, tau)
    return (g1 / (eps + g1.detach()) + g2 / (eps + g2.detach())).mean()


def predicted(anchors, contrasts, prototypes, tau, eps, ids=None, prototype_ids=None):
    """alpha_i = log(eps + mean_j exp((cos(anchor_i, W_j) - s_ii) / tau)).

    With ids, the mean is over the prototypes whose id is not the anchor's.
    """
    alphas = []
    for i in range(len(anchors)):
        own = anchors[i] @ contrasts[i]
        terms = []
        for j in range(len(prototypes)):
            if ids is not None and int(ids[i]) == int(prototype_ids[j]):
                continue
            cosine = anchors[i] @ prototypes[j] / prototypes[j].norm()
            terms.append(torch.exp((cosine - own) / tau))
        alphas.append(torch.log(eps + sum(terms) / len(terms)))
    return torch.stack(alphas)


def neuclip(images, texts, tau, alpha1, alpha2, eps, rho):
    """tau * mean_i sum_sides {exp(-alpha) (eps + g) + alpha - 1} + 2 rho tau."""
    total = 0.0
    n = len(images)
    for anchors, contrasts, alpha in ((images, texts, alpha1), (texts, images, alpha2)):
        for i in range(n):
            g = inner_function(anchors, contrasts, i, range(n), tau)
            total = total + torch.exp(-alpha[i]) * (eps + g) + alpha[i] - 1
    return tau * total / n + 2 * rho * tau
