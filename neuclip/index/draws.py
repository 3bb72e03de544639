"""Draw samples by keyed hashes: what is drawn follows from ids and seed, not from the order of the rows."""

import numpy as np
import numpy.typing as npt

from neuclip.foundation.randomness import keyed_hash

Ids = npt.NDArray[np.int64]

_ROUNDS = 64
_MAX_PRODUCTS = 1 << 24
"""Products of samples and chosen ones that live at a time: 64 MiB in float32."""
_NO_DISTANCE = 1e-30
"""Stands for a squared distance of 0, so that copies of what is chosen come last, by their hashes."""


def draw_uniform(ids: Ids, count: int, *, seed: int) -> Ids:
    """Return the `count` ids with the lowest hashes, lowest first; fewer of the same seed are the first of more."""
    hashes = keyed_hash(ids, seed=seed)
    lowest = np.argpartition(hashes, count - 1)[:count]
    return ids[lowest[np.argsort(hashes[lowest])]]


def draw_stratified(ids: Ids, clusters: npt.NDArray[np.int64], count: int, *, seed: int) -> Ids:
    """Draw from every cluster in proportion to its size, within a cluster as `draw_uniform` does.

    Returns: ids by cluster.
    """
    _, place, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = np.lexsort((keyed_hash(ids, seed=seed), place))
    place_in_order = place[order]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    number = np.arange(len(ids)) - first[place_in_order]
    return ids[order[number < largest_remainders(sizes, count)[place_in_order]]]


def largest_remainders(sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Share `count` out in proportion to sizes, whole numbers; equal remainders favour the first."""
    shares, remainders = np.divmod(sizes.astype(np.int64) * count, int(sizes.sum()))
    left = count - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:left]] += 1
    return shares


def draw_spread(ids: Ids, features: npt.NDArray[np.float32], count: int, *, seed: int) -> Ids:
    """Draw samples that lie far from each other, as k-means++ draws its first centres.

    Definition: the first is the one of the lowest hash; each next is drawn with a probability in
    proportion to D^2, its squared distance to the nearest one chosen so far. Beyond 65 samples
    ceil((count - 1) / 64) of them are drawn in a round, without replacement, before distances
    are taken anew. A weighted draw is a race: the lowest -log(u) / D^2 win, u a keyed hash.

    Args:
        features: [N, D], row i of ids[i]; distances are taken in it.
    Source: Arthur and Vassilvitskii 2007; rounds as in k-means||, Bahmani et al. 2012; the race is
        Efraimidis and Spirakis 2006; against loops in tests/index/test_draws.py.
    """
    newest = np.argsort(keyed_hash(ids, seed=seed))[:1]
    chosen, distances = [newest], np.full(len(ids), np.inf, dtype=np.float32)
    norms = np.einsum("nd,nd->n", features, features)
    a_round = max(1, -(-(count - 1) // _ROUNDS))
    number = 1
    while number < count:
        _take_distances(distances, features, norms, newest)
        uniform = (keyed_hash(ids, seed=seed, epoch=len(chosen)) >> np.uint64(11)) + 0.5
        races = -np.log(uniform / 2**53) / np.maximum(distances, _NO_DISTANCE)
        races[np.concatenate(chosen)] = np.inf
        size = min(a_round, count - number)
        newest = np.argpartition(races, size - 1)[:size]
        newest = newest[np.argsort(races[newest])]
        chosen.append(newest)
        number += size
    return ids[np.concatenate(chosen)]


def _take_distances(
    distances: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    norms: npt.NDArray[np.float32],
    newest: npt.NDArray[np.intp],
) -> None:
    """Lower, in place, each sample's squared distance to that from the newest ones; some rows at a time."""
    newest_rows = features[newest]
    step = max(1, _MAX_PRODUCTS // len(newest))
    for first in range(0, len(features), step):
        rows = features[first : first + step]
        squared = norms[newest] - 2 * (rows @ newest_rows.T)
        nearest = squared.min(axis=1) + norms[first : first + step]
        part = distances[first : first + step]
        np.minimum(part, nearest.clip(min=0), out=part)
