"""Images that mean the same, by their features: semantic duplicates, and clusters that a target set falls into.

Legend: N images, T targets, K clusters, D embedding width.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import DataError, NumericsError, ShapeError

_KMEANS_STEPS = 20
_MOST_TRAINING_POINTS = 256
"""For each cluster; k-means is trained on a sample of larger sets, drawn from the seed."""
_ROWS_AT_ONCE = 4096
_NONE = np.empty(0, np.int64)

Features = npt.NDArray[np.floating[Any]]
_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


def semantic_duplicates(
    features: Features, *, threshold: float, clusters: int, seed: int
) -> npt.NDArray[np.int64]:
    """Find for each image, given best first, the image that stands for it.

    Definition: images are clustered by spherical k-means; within a cluster, going through the images in order, i
    is a duplicate of the first kept j < i whose cosine with i is above the threshold; if there is none, i is kept.
    Rows of zeros, which have no features, are kept.

    Args:
        features: [N, D] unit-norm, best first; may be mapped from a file, it is read cluster by cluster.
        threshold: cosine, -1..1.
        clusters: K; fewer where there are fewer images.
        seed: of k-means.
    Returns: keeper[i] = j, or i if it is kept.
    Raises: NumericsError: for features that are not finite.
    Source: SemDeDup, arXiv 2303.09540, which keeps the image farthest from the centroid; here the best is kept.
    """
    keeper = np.arange(len(features), dtype=np.int64)
    there = _rows_there(features)
    if not len(there):
        return keeper
    sample = features[_drawn(there, clusters, seed)]
    centroids = train_clusters(sample, clusters=clusters, seed=seed, spherical=True)
    nearest = nearest_clusters(features, centroids, spherical=True)[there]
    order = np.argsort(nearest, kind="stable")
    ends = np.flatnonzero(np.diff(nearest[order])) + 1
    for members in np.split(there[order], ends):
        keeper[members] = _duplicates_in(features, members, threshold)
    return keeper


def image_cluster(
    pool: Sequence[Features], targets: Features, *, clusters: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Tell for every image of the pool whether its nearest centroid is the nearest one of some target.

    Args:
        pool: features in order, array by array; each is asked for several times, and none is kept.
        targets: [T, D].
        clusters: K, of the pool by k-means.
        seed: of k-means.
    Returns: one value for each image of the pool; False for rows of zeros, which have no features.

    Raises:
        DataError: if there is no target or no image.
        ShapeError: if pool and targets have different widths.
        NumericsError: for features that are not finite.
    Source: image-based filtering of DataComp, arXiv 2304.14108, appendix; its published centroids were made with
        100,000 clusters.
    """
    for rows in pool:
        _require_width(rows, targets.shape[1])
    starts = np.cumsum([0, *(len(rows) for rows in pool)])
    there = np.concatenate(
        [_NONE, *(_rows_there(rows) + start for rows, start in zip(pool, starts, strict=False))]
    )
    wanted = targets[targets.any(axis=1)]
    if not len(wanted) or not len(there):
        raise DataError(
            f"clusters are chosen by targets, but {len(wanted)} targets and {len(there)} images of the pool have "
            "features; check the target set and the embedding score"
        )
    drawn = _drawn(there, clusters, seed)
    edges = np.searchsorted(drawn, starts)
    sample = [
        rows[drawn[edges[number] : edges[number + 1]] - starts[number]]
        for number, rows in enumerate(pool)
    ]
    centroids = train_clusters(np.concatenate(sample), clusters=clusters, seed=seed)
    is_chosen = np.zeros(len(centroids), dtype=bool)
    is_chosen[nearest_clusters(wanted, centroids)] = True
    nearest = np.concatenate([nearest_clusters(rows, centroids) for rows in pool])
    found = np.zeros(len(nearest), dtype=bool)
    found[there] = is_chosen[nearest[there]]
    return found


def train_clusters(
    features: Features, *, clusters: int, seed: int, spherical: bool = False
) -> _Floats:
    """Return the centroids [K, D] of k-means: 20 steps, seeded, the same on every run of one machine.

    Args:
        features: the sample to train on, whole in memory.
        clusters: K; fewer where there are fewer rows.

    Raises: NumericsError: for features that are not finite.
    """
    count = min(clusters, len(features))
    points = _as_points(features)
    with _one_thread():
        kmeans = faiss.Kmeans(
            points.shape[1],
            count,
            niter=_KMEANS_STEPS,
            seed=seed,
            spherical=spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=_MOST_TRAINING_POINTS,
        )
        kmeans.train(points)
    return np.asarray(kmeans.centroids, np.float32)


def nearest_clusters(features: Features, centroids: _Floats, *, spherical: bool = False) -> _Ids:
    """Return for each row the number of its nearest centroid, by cosine or by distance.

    Raises:
        ShapeError: if rows and centroids have different widths.
        NumericsError: for features that are not finite.
    """
    _require_width(features, centroids.shape[1])
    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(centroids.shape[1])
    with _one_thread():
        index.add(centroids)
        found = [index.search(_as_points(rows), 1)[1][:, 0] for rows in _blocks(features)]
    return np.concatenate([_NONE, *found])


def _duplicates_in(features: Features, members: _Ids, threshold: float) -> _Ids:
    """Return the keepers of the members of a cluster, best first; memory grows with its rows, not their pairs."""
    keeper = members.copy()
    kept = _NONE
    for start in range(0, len(members), _ROWS_AT_ONCE):
        block = slice(start, min(start + _ROWS_AT_ONCE, len(members)))
        rows = features[members[block]].astype(np.float32)
        _take_from_kept(features, members, kept, rows, keeper[block], threshold)
        is_free = keeper[block] == members[block]
        alike = rows @ rows.T > threshold
        for row in np.flatnonzero(is_free).tolist():
            if is_free[row]:
                later = np.flatnonzero(alike[row] & is_free)
                later = later[later > row]
                keeper[block][later] = members[block][row]
                is_free[later] = False
        kept = np.concatenate([kept, np.flatnonzero(is_free) + start])
    return keeper


def _take_from_kept(
    features: Features, members: _Ids, kept: _Ids, rows: _Floats, keeper: _Ids, threshold: float
) -> None:
    """Give rows the first of the earlier kept members that is like them; the last block is looked at first."""
    for end in range(len(kept), 0, -_ROWS_AT_ONCE):
        some = members[kept[max(0, end - _ROWS_AT_ONCE) : end]]
        alike = rows @ features[some].astype(np.float32).T > threshold
        has_one = alike.any(axis=1)
        keeper[has_one] = some[alike.argmax(axis=1)[has_one]]


def _rows_there(features: Features) -> _Ids:
    """Return the rows that are not zeros."""
    blocks = [rows.any(axis=1) for rows in _blocks(features)]
    return np.flatnonzero(np.concatenate([np.empty(0, bool), *blocks]))


def _drawn(rows: _Ids, clusters: int, seed: int) -> _Ids:
    """Draw at most as many rows as k-means looks at, in order."""
    most = clusters * _MOST_TRAINING_POINTS
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _as_points(features: Features) -> _Floats:
    """Return rows as faiss wants them."""
    points = np.ascontiguousarray(features, dtype=np.float32)
    is_finite = np.isfinite(points).all(axis=1)
    if not is_finite.all():
        raise NumericsError(
            f"{int((~is_finite).sum())} of {len(points)} features are not finite; score the images again"
        )
    return points


def _blocks(features: Features) -> Iterator[Features]:
    for start in range(0, len(features), _ROWS_AT_ONCE):
        yield features[start : start + _ROWS_AT_ONCE]


def _require_width(features: Features, width: int) -> None:
    if features.ndim != 2 or features.shape[1] != width:
        raise ShapeError(
            f"features have the shape {list(features.shape)}, expected [rows, {width}]; "
            "both must come from the same model"
        )


@contextmanager
def _one_thread() -> Generator[None]:
    """Keep faiss to one thread: sums over several end differently from run to run."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
