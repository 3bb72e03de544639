"""SogCLR, iSogCLR and FastCLIP v0-v3 as loops, from their definitions; imports nothing of neuclip.

Legend as in contrastive.py; u_i the moving average that stands for g_i (u1 of image anchors, u2
of text anchors), always after this step's update and without a gradient; alpha_i = log(eps + u_i).
Losses are sums over both sides. FastCLIP: arXiv 2407.01445.
"""

import math

import torch
from oracles.contrastive import inner_function, inner_functions

NEVER_VISITED = 1e-35


def gamma(epoch, *, gamma_min, decay_epochs):
    """1 in epoch 0, then half a cosine down to gamma_min at decay_epochs; epochs count from 0."""
    if epoch == 0:
        return 1.0
    if epoch >= decay_epochs:
        return gamma_min
    return (1 + math.cos(math.pi * epoch / decay_epochs)) / 2 * (1 - gamma_min) + gamma_min


def constant_gamma(epoch, *, gamma):
    """1 in epoch 0, then constant."""
    return 1.0 if epoch == 0 else gamma


def update(u, g, gamma):
    """(1 - gamma) u + gamma g; an old u that was never visited or is broken gives way to g."""
    new = []
    for old, fresh in zip(u.tolist(), g.tolist(), strict=True):
        is_sound = NEVER_VISITED <= old < math.inf
        new.append((1 - gamma) * old + gamma * fresh if is_sound and gamma < 1 else fresh)
    return u.new_tensor(new)


def log_update(log_u, log_g, gamma):
    """The same of logarithms: logaddexp(log u + log(1 - gamma), log g + log gamma)."""
    new = []
    for old, fresh in zip(log_u.tolist(), log_g.tolist(), strict=True):
        if not math.isfinite(old) or gamma == 1:
            new.append(fresh)
            continue
        kept, added = old + math.log1p(-gamma), fresh + math.log(gamma)
        new.append(max(kept, added) + math.log1p(math.exp(-abs(kept - added))))
    return log_u.new_tensor(new)


def v0_surrogate(images, texts, u1, u2, tau, eps):
    """mean_i [g1_i / (eps + u1_i) + g2_i / (eps + u2_i)], for its gradient only."""
    g1, g2 = inner_functions(images, texts, tau), inner_functions(texts, images, tau)
    return (g1 / (eps + u1.detach()) + g2 / (eps + u2.detach())).mean()


def v1_surrogate(images, texts, u1, u2, tau, eps):
    """v0's with tau constant (also SogCLR's); the gradient of GCL / tau if u = g."""
    return v0_surrogate(images, texts, u1, u2, tau.detach(), eps)


def v3_surrogate(images, texts, u1, u2, tau, eps, rho, tau_exp_weight=1):
    """sg(tau) v0 + tau (mean_i [log(eps + u1_i) + log(eps + u2_i)] + 2 rho), gradient only.

    The derivative of the first term to tau counts tau_exp_weight times.
    """
    weighted_tau = tau_exp_weight * tau - (tau_exp_weight - 1) * tau.detach()
    ratios = v0_surrogate(images, texts, u1, u2, weighted_tau, eps)
    logs = (torch.log(eps + u1.detach()) + torch.log(eps + u2.detach())).mean()
    return tau.detach() * ratios + tau * (logs + 2 * rho)


def _weighted_margins(anchors, contrasts, i, u, tau, eps):
    """mean_{j other than i} of exp(h_ij / tau) (h_ij / tau) / (eps + u_i)."""
    own = anchors[i] @ contrasts[i]
    total = 0.0
    for j in range(len(anchors)):
        if j != i:
            margin = (anchors[i] @ contrasts[j] - own) / tau
            total = total + torch.exp(margin) * margin
    return total / (len(anchors) - 1) / (eps + u[i])


def v3_temperature_gradient(images, texts, u1, u2, tau, eps, rho, tau_exp_weight=1):
    """mean_i sum_sides {log(eps + u) - weight * mean_j exp(h/tau) (h/tau) / (eps + u)} + 2 rho."""
    total = 0.0
    for anchors, contrasts, u in ((images, texts, u1), (texts, images, u2)):
        for i in range(len(images)):
            margins = _weighted_margins(anchors, contrasts, i, u, tau, eps)
            total = total + torch.log(eps + u[i]) - tau_exp_weight * margins
    return total / len(images) + 2 * rho


def individual_inner_functions(anchors, contrasts, taus):
    """g_i at the anchor's own temperature."""
    n = len(anchors)
    return torch.stack([inner_function(anchors, contrasts, i, range(n), taus[i]) for i in range(n)])


def rgcl(images, texts, tau1, tau2, eps, rho):
    """mean_i sum_sides tau_i (log(eps + g_i(tau_i)) + rho): one temperature a sample and side."""
    g1 = individual_inner_functions(images, texts, tau1)
    g2 = individual_inner_functions(texts, images, tau2)
    return (tau1 * (torch.log(eps + g1) + rho) + tau2 * (torch.log(eps + g2) + rho)).mean()


def v2_surrogate(images, texts, u1, u2, tau1, tau2, eps):
    """mean_i sum_sides tau_i g_i(tau_i) / (eps + u_i), for the encoders' gradient only."""
    tau1, tau2, u1, u2 = (constant.detach() for constant in (tau1, tau2, u1, u2))
    image_side = tau1 * individual_inner_functions(images, texts, tau1) / (eps + u1)
    text_side = tau2 * individual_inner_functions(texts, images, tau2) / (eps + u2)
    return (image_side + text_side).mean()


def individual_temperature_gradient(anchors, contrasts, u, taus, eps, rho):
    """log(eps + u_i) + rho - mean_{j other than i} [exp(h/tau_i) h/tau_i] / (eps + u_i), per i."""
    gradients = []
    for i in range(len(anchors)):
        margins = _weighted_margins(anchors, contrasts, i, u, taus[i], eps)
        gradients.append(torch.log(eps + u[i]) + rho - margins)
    return torch.stack(gradients)


def individual_adam_step(taus, m, v, gradient, epoch, *, lr, betas, adam_eps=1e-8):
    """FastCLIP-v2: one Adam step of some temperatures; returns them, m and v.

    The gradient is clipped to 5; moments have no memory in epoch 0; the bias correction counts
    epochs; temperatures stay in [0.01, 1].
    """
    beta1, beta2 = betas if epoch else (0.0, 0.0)
    gradient = gradient.clamp(-5, 5)
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    first, second = m / (1 - beta1 ** (epoch + 1)), v / (1 - beta2 ** (epoch + 1))
    return (taus - lr * first / (second.sqrt() + adam_eps)).clamp(0.01, 1), m, v


def isogclr_step(taus, m, gradient, *, lr):
    """iSogCLR: m <- 0.1 m + 0.9 clip(gradient, 5); tau <- clip(tau - lr m, 0.005, 1)."""
    m = 0.1 * m + 0.9 * gradient.clamp(-5, 5)
    return (taus - lr * m).clamp(0.005, 1), m


def similarity_weights(images, texts, u1, u2, tau, eps):
    """The derivative of v3's surrogate to each s_ij (of v0's and v1's: divide by tau).

    w1_ij + w2_ji off the diagonal with w_ij = exp(h_ij / tau - alpha_i) / (n (n - 1)), and minus
    both row sums on it.
    """
    n = len(images)
    weights = images.new_zeros(n, n)
    for anchors, contrasts, u, is_image in ((images, texts, u1, True), (texts, images, u2, False)):
        for i in range(n):
            alpha = torch.log(eps + u[i])
            for j in range(n):
                if j == i:
                    continue
                margin = anchors[i] @ contrasts[j] - anchors[i] @ contrasts[i]
                weight = torch.exp(margin / tau - alpha).detach() / (n * (n - 1))
                weights[(i, j) if is_image else (j, i)] += weight
                weights[i, i] -= weight
    return weights


def mirror_descent_step(alpha, g, gamma, eps):
    """e^alpha' = e^alpha - (gamma e^alpha) (1 - e^-alpha (eps + g)): mirror map e^alpha."""
    slope = 1 - torch.exp(-alpha) * (eps + g)
    return torch.log(torch.exp(alpha) - gamma * torch.exp(alpha) * slope)


def scent_gamma(alpha, log_step):
    """SCENT (arXiv 2602.02877): sigmoid(alpha_i + c), a gamma for each sample."""
    return 1 / (1 + torch.exp(-alpha - log_step))
