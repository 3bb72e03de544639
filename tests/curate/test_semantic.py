"""Oracles: the definition as loops over all pairs; scipy's k-means distances by hand; what was planted."""

import subprocess
import sys

import numpy as np
import pytest

from neuclip.curate import semantic
from neuclip.curate.semantic import (
    image_cluster,
    nearest_clusters,
    semantic_duplicates,
    train_clusters,
)
from neuclip.foundation.errors import DataError, NumericsError, ShapeError


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def planted(count=400, width=16, copies=150, seed=0, noise=0.05):
    """Random directions, of which some come again a little turned, in random order."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(count, width))
    again = base[random.integers(0, count, copies)] + noise * random.normal(size=(copies, width))
    rows = np.concatenate([base, again])[random.permutation(count + copies)]
    return unit(rows).astype(np.float16)


def by_loops(features, threshold, cluster):
    """The first kept earlier image of the same cluster whose cosine is above the threshold."""
    keeper = list(range(len(features)))
    rows = features.astype(np.float64)
    for i in range(len(features)):
        for j in range(i):
            same = cluster[i] == cluster[j] and keeper[j] == j
            if same and rows[i].any() and rows[i] @ rows[j] > threshold:
                keeper[i] = j
                break
    return keeper


@pytest.mark.parametrize("rows_at_once", [4096, 7])
@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_one_cluster_is_the_definition_over_all_pairs(monkeypatch, threshold, rows_at_once):
    monkeypatch.setattr(semantic, "_ROWS_AT_ONCE", rows_at_once)
    features = planted()
    features[[3, 60]] = 0
    keeper = semantic_duplicates(features, threshold=threshold, clusters=1, seed=0)
    expected = by_loops(features, threshold, np.zeros(len(features)))
    assert keeper.tolist() == expected
    assert keeper.dtype == np.int64
    assert 100 < (keeper != np.arange(len(keeper))).sum() < 500
    assert (keeper[3], keeper[60]) == (3, 60)


def test_several_clusters_are_the_definition_within_each():
    features = planted(seed=1)
    keeper = semantic_duplicates(features, threshold=0.9, clusters=8, seed=3)
    centroids = train_clusters(features, clusters=8, seed=3, spherical=True)
    cluster = (features.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)
    assert len(set(cluster.tolist())) == 8
    assert keeper.tolist() == by_loops(features, 0.9, cluster)
    assert (keeper != np.arange(len(keeper))).sum() > 100


def test_again_is_the_same_in_another_process_with_other_threads():
    features = planted(count=3000, width=64, copies=500, seed=2)
    first = semantic_duplicates(features, threshold=0.9, clusters=40, seed=5)
    code = (
        "import sys, numpy as np; sys.path.insert(0, 'tests')\n"
        "from curate.test_semantic import planted\n"
        "from neuclip.curate.semantic import semantic_duplicates as f\n"
        "rows = planted(count=3000, width=64, copies=500, seed=2)\n"
        "print(f(rows, threshold=0.9, clusters=40, seed=5).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "2"},
    )
    assert done.stdout.strip() == str(first.tolist()), done.stderr[-500:]


def test_fewer_images_than_clusters_and_none_at_all():
    features = unit(np.eye(5, 8)).astype(np.float16)[[0, 1, 0, 2, 1]]
    keeper = semantic_duplicates(features, threshold=0.9, clusters=1000, seed=0)
    assert keeper.tolist() == [0, 1, 0, 3, 1]
    empty = np.empty((0, 8), np.float16)
    assert semantic_duplicates(empty, threshold=0.9, clusters=10, seed=0).tolist() == []
    zeros = np.zeros((3, 8), np.float16)
    assert semantic_duplicates(zeros, threshold=0.9, clusters=10, seed=0).tolist() == [0, 1, 2]


def test_only_a_sample_trains_the_clusters_and_every_image_is_placed(monkeypatch):
    """Oracle: the definition, with the clusters of the sample that the seed draws."""
    monkeypatch.setattr(semantic, "_MOST_TRAINING_POINTS", 20)
    features = planted(seed=4)
    trained = []
    train = semantic.train_clusters

    def spy(sample, **options):
        trained.append((sample, train(sample, **options)))
        return trained[-1][1]

    monkeypatch.setattr(semantic, "train_clusters", spy)
    keeper = semantic_duplicates(features, threshold=0.9, clusters=5, seed=0)
    ((sample, centroids),) = trained
    assert len(sample) == 100
    cluster = (features.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)
    assert keeper.tolist() == by_loops(features, 0.9, cluster)


def test_features_that_are_not_finite_are_refused():
    features = planted()
    features[7] = np.nan
    with pytest.raises(NumericsError, match="1 of 550 features are not finite"):
        semantic_duplicates(features, threshold=0.9, clusters=4, seed=0)


@pytest.mark.parametrize("pieces", [1, 3])
def test_an_image_is_kept_whose_nearest_centroid_is_one_of_a_targets(pieces):
    random = np.random.default_rng(0)
    pool = unit(random.normal(size=(900, 12))).astype(np.float16)
    targets = unit(random.normal(size=(6, 12))).astype(np.float16)
    pool[[5, 899]] = 0
    found = image_cluster(np.array_split(pool, pieces), targets, clusters=25, seed=4)
    there = pool.any(axis=1)
    centroids = train_clusters(pool[there], clusters=25, seed=4).astype(np.float64)

    def nearest(row):
        return min(range(25), key=lambda k: ((row.astype(np.float64) - centroids[k]) ** 2).sum())

    wanted = {nearest(row) for row in targets}
    assert found.tolist() == [bool(row.any()) and nearest(row) in wanted for row in pool]
    assert 0 < found.sum() < 500


def test_a_target_brings_its_own_cloud_and_no_other():
    """Oracle: four clouds far apart; the target lies in one of them."""
    random = np.random.default_rng(1)
    cloud = random.integers(0, 4, 600)
    pool = unit(10 * np.eye(4, 16)[cloud] + random.normal(size=(600, 16)))
    target = unit(10 * np.eye(4, 16)[[2]] + random.normal(size=(1, 16)))
    found = image_cluster([pool], target, clusters=4, seed=0)
    assert (found == (cloud == 2)).all()


def test_centroids_are_where_k_means_rests():
    """Oracle: each centroid is the mean of the points nearest to it, after enough steps on clouds."""
    random = np.random.default_rng(1)
    cloud = random.integers(0, 4, 600)
    pool = (10 * np.eye(4, 16)[cloud] + random.normal(size=(600, 16))).astype(np.float32)
    centroids = train_clusters(pool, clusters=4, seed=0)
    nearest = nearest_clusters(pool, centroids)
    means = np.stack([pool[nearest == k].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(centroids, means, atol=1e-4)


def test_clusters_without_targets_or_with_other_widths_are_refused():
    pool = unit(np.random.default_rng(0).normal(size=(30, 8)))
    with pytest.raises(DataError, match="0 targets and 30 images"):
        image_cluster([pool], np.zeros((2, 8), np.float32), clusters=2, seed=0)
    with pytest.raises(DataError, match="1 targets and 0 images"):
        image_cluster([np.zeros_like(pool)], pool[:1], clusters=2, seed=0)
    with pytest.raises(ShapeError, match=r"\[30, 8\], expected \[rows, 7\]"):
        image_cluster([pool], unit(np.ones((1, 7))), clusters=2, seed=0)
