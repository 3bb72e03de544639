"""Images that mean the same, by their features: semantic duplicates, and clusters that a target set falls into.

Legend: N images, T targets, K clusters, D embedding width.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import DataError, NumericsError, ShapeError

_KMEANS_STEPS = 20
_MOST_TRAINING_POINTS = 256
"""For each cluster; k-means is trained on a sample of larger sets, drawn by faiss from the seed."""
_ROWS_AT_ONCE = 4096

Features = npt.NDArray[np.float16] | npt.NDArray[np.float32]
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
    there = np.flatnonzero([row.any() for row in features])
    if not len(there):
        return keeper
    centroids = train_clusters(features[there], clusters=clusters, seed=seed, spherical=True)
    nearest = np.concatenate(
        [nearest_clusters(rows, centroids, spherical=True) for _, rows in _blocks(features, there)]
    )
    order = np.argsort(nearest, kind="stable")
    ends = np.flatnonzero(np.diff(nearest[order])) + 1
    for members in np.split(there[order], ends):
        keeper[members] = _duplicates_in(features, members, threshold)
    return keeper


def image_cluster(
    pool: Iterable[Features], targets: Features, *, clusters: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Tell for every image of the pool whether its nearest centroid is the nearest one of some target.

    Args:
        pool: features in order, array by array.
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
    arrays = list(pool)
    has_features = np.concatenate([np.empty(0, bool), *(rows.any(axis=1) for rows in arrays)])
    wanted = targets[targets.any(axis=1)]
    if not len(wanted) or not has_features.any():
        raise DataError(
            f"clusters are chosen by targets, but {len(wanted)} targets and {int(has_features.sum())} images of the "
            "pool have features; check the target set and the embedding score"
        )
    for rows in arrays:
        _require_width(rows, targets.shape[1])
    sample = _sample([rows[rows.any(axis=1)] for rows in arrays], clusters, seed)
    centroids = train_clusters(sample, clusters=clusters, seed=seed)
    chosen = np.zeros(len(centroids), dtype=bool)
    chosen[nearest_clusters(wanted, centroids)] = True
    found = [chosen[nearest_clusters(rows, centroids)] for rows in arrays]
    return np.concatenate(found) & has_features


def train_clusters(
    features: Features, *, clusters: int, seed: int, spherical: bool = False
) -> _Floats:
    """Return the centroids [K, D] of k-means: 20 steps, seeded, the same on every run of one machine.

    Raises: NumericsError: for features that are not finite.
    """
    count = min(clusters, len(features))
    points = np.ascontiguousarray(features, dtype=np.float32)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise NumericsError(
            f"{bad} of {len(points)} features are not finite; score them again with another model"
        )
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

    Raises: ShapeError: if rows and centroids have different widths.
    """
    _require_width(features, centroids.shape[1])
    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(centroids.shape[1])
    with _one_thread():
        index.add(centroids)
        found = [
            index.search(np.ascontiguousarray(rows, dtype=np.float32), 1)[1][:, 0]
            for _, rows in _blocks(features, np.arange(len(features)))
        ]
    return np.concatenate([np.empty(0, np.int64), *found])


def _duplicates_in(features: Features, members: _Ids, threshold: float) -> _Ids:
    """Return the keepers of the members of a cluster, best first; memory grows with its rows, not their pairs."""
    keeper = members.copy()
    kept = np.empty(0, np.int64)
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


def _sample(arrays: list[Features], clusters: int, seed: int) -> _Floats:
    """Draw at most the number of rows that k-means looks at, from all arrays alike."""
    total = sum(len(rows) for rows in arrays)
    most = clusters * _MOST_TRAINING_POINTS
    taken = np.arange(total)
    if total > most:
        taken = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    starts = np.cumsum([0, *(len(rows) for rows in arrays)])
    return np.concatenate(
        [
            rows[taken[(taken >= start) & (taken < start + len(rows))] - start].astype(np.float32)
            for start, rows in zip(starts.tolist(), arrays, strict=False)
        ]
    )


def _blocks(features: Features, rows: _Ids) -> Iterator[tuple[_Ids, Features]]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        yield some, features[some]


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
