"""Estimates of log-normalizers and the loss of two roles as loops; imports nothing of neuclip.

Legend as in contrastive.py; a_i an estimate of log(eps + g_i), l_i the batch's log(eps + g_i).
A queue holds past features of the contrasts' side, newest first; rows with the anchor's sample id
are left out of its means.
"""

import torch
from oracles.contrastive import inner_function, predicted


def exact_normalizers(anchors, contrasts, ids, tau, eps):
    """log(eps + g_i) over a data set, g_i over the rows whose sample id is not the anchor's."""
    values = []
    for i in range(len(anchors)):
        others = [j for j in range(len(contrasts)) if int(ids[j]) != int(ids[i])]
        values.append(torch.log(eps + inner_function(anchors, contrasts, i, others, tau)))
    return torch.stack(values)


def queue_values(anchors, contrasts, queue, ids, queue_ids, tau, eps):
    """a_i = log(eps + mean_j exp((cos(anchor_i, q_j) - s_ii) / tau)) over the queue."""
    return predicted(anchors, contrasts, queue, tau, eps, ids, queue_ids)


def pushed(queue, batch, capacity):
    """The queue after the batch's rows (or ids) took the place of the oldest."""
    return torch.cat([batch, queue])[:capacity]


def age_blocks(capacity, first):
    """Ranges of first, 2 first, 4 first, ... rows by age, the last cut at the capacity."""
    blocks, start, size = [], 0, first
    while start < capacity:
        blocks.append(range(start, min(start + size, capacity)))
        start, size = start + size, 2 * size
    return blocks


def block_sums(anchors, contrasts, queue, ids, queue_ids, tau, blocks):
    """n_ib e^h_ib: sums of exp((cos(anchor_i, q_j) - s_ii) / tau) over blocks; counts n_ib."""
    sums, counts = anchors.new_zeros(2, len(anchors), len(blocks))
    for i in range(len(anchors)):
        own = anchors[i] @ contrasts[i]
        for b, block in enumerate(blocks):
            for j in block:
                if j < len(queue) and int(queue_ids[j]) != int(ids[i]):
                    cosine = anchors[i] @ queue[j] / queue[j].norm()
                    sums[i, b] += torch.exp((cosine - own) / tau).detach()
                    counts[i, b] += 1
    return sums, counts


def age_weighted_values(sums, counts, block_weights, eps):
    """a_i = log(eps + sum_b e^v_b n_ib e^h_ib / sum_b n_ib), v the log-weights of the blocks."""
    weighted = (torch.exp(block_weights) * sums).sum(dim=1)
    return torch.log(eps + weighted / counts.sum(dim=1))


def block_weight_gradient(sums, values, batch_logs, block_weights, largest_exponent=6.0):
    """mean_i (1 - exp(l_i - a_i)) softmax_b(h_ib + log n_ib + v_b), the exponent clamped.

    At eps = 0 and without the clamp the gradient of mean_i [exp(l_i - a_i) + a_i - 1].
    """
    gradient = torch.zeros_like(block_weights)
    for i in range(len(sums)):
        shares = torch.exp(block_weights) * sums[i]
        exponent = (batch_logs[i] - values[i]).clamp(max=largest_exponent)
        gradient = gradient + (1 - torch.exp(exponent)) * shares / shares.sum()
    return gradient / len(sums)


def rms_step(block_weights, square, gradient, *, rate, decay=0.98, tiny=1e-12):
    """v <- v - rate gradient / root of its running square (from 0, not bias-corrected)."""
    square = decay * square + (1 - decay) * gradient**2
    return block_weights - rate * gradient / (square.sqrt() + tiny), square


def updated_offset(offset, batch_logs, values, decay):
    """c <- decay c + (1 - decay) mean_i exp(l_i - a_i), from 1; a_i + log c is used."""
    ratios = [torch.exp(log - value) for log, value in zip(batch_logs, values, strict=True)]
    return decay * offset + (1 - decay) * sum(ratios) / len(ratios)


def two_roles(images, texts, u1, u2, anchor_tau, contrast_tau, eps, *, rank, ranks):
    """(L_a, L_b) of a rank; the mean over ranks of their sum has v0_surrogate's gradient.

    L_a: its anchors against all contrasts, which are constants but for the own pair; a row's
    sum over n - 1. L_b: all anchors, constants, against its contrasts; over b (n - 1) / n.
    With u given; tau is to be live in L_a alone: hand contrast_tau detached.
    """
    n = len(images)
    b = n // ranks
    local = range(rank * b, (rank + 1) * b)
    anchor_role = contrast_role = images.new_zeros(())
    for anchors, contrasts, u in ((images, texts, u1), (texts, images, u2)):
        for i in range(n):
            own = anchors[i] @ contrasts[i]
            if i in local:
                others = [contrasts[j].detach() for j in range(n) if j != i]
                row = sum(torch.exp((anchors[i] @ other - own) / anchor_tau) for other in others)
                anchor_role = anchor_role + row / (n - 1) / (eps + u[i].detach()) / b
            anchor, own = anchors[i].detach(), own.detach()
            for j in local:
                if j != i:
                    term = torch.exp((anchor @ contrasts[j] - own) / contrast_tau)
                    mean = term / (b * (n - 1) / n) / n
                    contrast_role = contrast_role + mean / (eps + u[i].detach())
    return anchor_role, contrast_role
