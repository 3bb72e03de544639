"""AmorLIP as loops, from its definition; imports nothing of neuclip.

Legend as in contrastive.py; scale = 1 / tau; lambda_i a network's estimate of the sum T_i over
the batch, positive_weight what the own pair counts in that sum. arXiv 2505.18983.
"""

import math

import torch


def _layer_norm(row, gain, shift, norm_eps):
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / len(row)
    return (row - mean) / torch.sqrt(variance + norm_eps) * gain + shift


def log_lambda(features, weights, norm_eps=1e-5):
    """out(relu(x + norm2(relu(linear2(norm1(relu(linear1(x)))))))) of each row x.

    The weights come in this order: W1 [h, d], b1, gain1, shift1, W2 [d, h], b2, gain2, shift2,
    w [1, d], b.
    """
    matrix1, bias1, gain1, shift1, matrix2, bias2, gain2, shift2, last, last_bias = weights
    outputs = []
    for row in features:
        hidden = torch.clamp(matrix1 @ row + bias1, min=0)
        hidden = _layer_norm(hidden, gain1, shift1, norm_eps)
        back = torch.clamp(matrix2 @ hidden + bias2, min=0)
        back = _layer_norm(back, gain2, shift2, norm_eps)
        outputs.append(last[0] @ torch.clamp(row + back, min=0) + last_bias[0])
    return torch.stack(outputs)


def log_target(anchors, contrasts, scale, positive_weight):
    """log T_i = log(sum_{j other than i} exp(scale s_ij) + positive_weight exp(scale s_ii))."""
    targets = []
    for i in range(len(anchors)):
        total = positive_weight * torch.exp(scale * (anchors[i] @ contrasts[i]))
        for j in range(len(contrasts)):
            if j != i:
                total = total + torch.exp(scale * (anchors[i] @ contrasts[j]))
        targets.append(torch.log(total))
    return torch.stack(targets).detach()


def smoothing(epoch, *, beta_max, ramp_epochs):
    """beta_z: half a cosine from 0 up to beta_max at ramp_epochs; epochs count from 0."""
    if epoch >= ramp_epochs:
        return beta_max
    return beta_max * (1 - (1 + math.cos(math.pi * epoch / ramp_epochs)) / 2)


def smoothed_log_target(log_targets, previous_log_lambda, beta):
    """log(beta lambda_previous + (1 - beta) T)."""
    return torch.log(beta * torch.exp(previous_log_lambda) + (1 - beta) * torch.exp(log_targets))


def log_l2(log_lambdas, log_targets):
    """mean_i (log lambda_i - log T_i)^2, of one side."""
    total = sum((a - b) ** 2 for a, b in zip(log_lambdas, log_targets.detach(), strict=True))
    return total / len(log_targets)


def encoder_loss(images, texts, scale, log_lambda1, log_lambda2, positive_weight):
    """J = -2 scale mean_i s_ii + mean_i sum_sides (sum_j weight_ij exp(scale s_ij)) / lambda_i."""
    n = len(images)
    total = 0.0
    for i in range(n):
        total = total - 2 * scale * (images[i] @ texts[i])
    sides = ((images, texts, log_lambda1), (texts, images, log_lambda2))
    for anchors, contrasts, log_lambdas in sides:
        for i in range(n):
            for j in range(n):
                weight = positive_weight if j == i else 1
                exponential = torch.exp(scale * (anchors[i] @ contrasts[j]))
                total = total + weight * exponential / torch.exp(log_lambdas[i].detach())
    return total / n


def scaled_encoder_loss(images, texts, scale, log_lambda1, log_lambda2, positive_weight, rho):
    """J / sg(scale) + rho / scale."""
    loss = encoder_loss(images, texts, scale, log_lambda1, log_lambda2, positive_weight)
    return loss / scale.detach() + rho / scale
