"""Float64 definitions of DeCLIP's and SLIP's terms as loops, from the papers; nothing is imported from neuclip."""

import math

import torch


def cosine(x, y):
    return (x @ y) / (math.sqrt(float(x @ x)) * math.sqrt(float(y @ y)))


def norm_of_batch(rows, eps=1e-5):
    """Batch norm without gain and bias."""
    columns = []
    for column in rows.T:
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append((column - mean) / torch.sqrt(variance + eps))
    return torch.stack(columns, dim=1)


def simsiam(predicted_one, predicted_two, one, two):
    """-1/2 [cos(p1, z2) + cos(p2, z1)], mean over the batch."""
    total = 0.0
    for p1, p2, z1, z2 in zip(predicted_one, predicted_two, one, two, strict=True):
        total -= (cosine(p1, z2) + cosine(p2, z1)) / 2
    return total / len(one)


def nt_xent(one, two, temperature):
    """SimCLR: each of 2 B views tells its twin from the 2 B - 2 views of other images."""
    views = [x / math.sqrt(float(x @ x)) for x in (*one, *two)]
    count, total = len(one), 0.0
    for i, anchor in enumerate(views):
        twin = (i + count) % (2 * count)
        logits = [float(anchor @ views[j]) / temperature for j in range(2 * count) if j != i]
        own = float(anchor @ views[twin]) / temperature
        total += math.log(sum(math.exp(x) for x in logits)) - own
    return total / (2 * count)


def nearest(text, queue):
    return max(queue, key=lambda row: float(text @ row))


def neighbours(images, texts, queue, temperature):
    """Mean over views a, b and images i of -log softmax_j(cos(I_i, N(T_j)) / tau) at j = i, N from the queue."""
    losses = []
    for view in images:
        for texts_of in texts:
            found = [nearest(text, queue) for text in texts_of]
            for i, image in enumerate(view):
                logits = [float(image @ row) / temperature for row in found]
                losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[i])
    return sum(losses) / len(losses)


def guesses(states, places, ids, weight, bias):
    """Mean over masked places of -log softmax(W state + b) at the id that stands there."""
    flat = [state for row in states for state in row]
    losses = []
    for place, own in zip(places, ids, strict=True):
        logits = [float(w @ flat[place] + b) for w, b in zip(weight, bias, strict=True)]
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[own])
    return sum(losses) / len(losses) if losses else 0.0
