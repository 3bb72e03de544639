"""Oracles: scipy's bootstrap, and models whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from neuclip.evaluation.bootstrap import intervals_of, resampled
from neuclip.evaluation.kinds.choice import Choice
from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.kinds.grouped import Grouped
from neuclip.evaluation.kinds.retrieval import Retrieval

SUITE = "a1b2c3d4e5f60718"


def answers(count, seed, num_classes=4):
    random = np.random.default_rng(seed)
    label = random.integers(num_classes, size=count)
    answer = np.where(random.random(count) < 0.6, label, random.integers(num_classes, size=count))
    return {"label": label, "answer": answer, "is_right": label == answer}


def by_scipy(statistic, *data):
    found = stats.bootstrap(
        data,
        statistic,
        n_resamples=4000,
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval


@pytest.mark.parametrize("count", [150, 900])
def test_accuracy_and_recall_by_class(count):
    columns = answers(count, seed=count)
    found = intervals_of(Classification(), columns, suite_version=SUITE)

    def mean_per_class(label, answer):
        return np.mean([(answer[label == n] == n).mean() for n in np.unique(label)])

    expected = {
        "acc1": by_scipy(np.mean, columns["is_right"].astype(float)),
        "mean_per_class_recall": by_scipy(mean_per_class, columns["label"], columns["answer"]),
    }
    for metric, interval in expected.items():
        assert found[metric].low == pytest.approx(interval.low, rel=0.02)
        assert found[metric].high == pytest.approx(interval.high, rel=0.02)


def test_captions_go_with_their_image():
    random = np.random.default_rng(3)
    captions = random.integers(1, 6, size=400)
    finds = np.array([random.binomial(n, random.random()) for n in captions])
    columns = {"captions": captions}
    for k in (1, 5, 10):
        columns[f"is_found_at_{k}"] = random.random(400) < 0.5
        columns[f"captions_that_find_at_{k}"] = finds
    found = intervals_of(Retrieval(), columns, suite_version=SUITE)["text_to_image_recall_at_1"]
    expected = by_scipy(lambda a, b: a.sum() / b.sum(), finds, captions)
    assert found.low == pytest.approx(expected.low, rel=0.02)
    assert found.high == pytest.approx(expected.high, rel=0.02)


def test_the_same_images_are_drawn_for_every_model():
    one, two = (answers(300, seed)["is_right"] for seed in (1, 2))
    both = resampled(Choice(), {"is_right": one}, suite_version=SUITE)["acc1"]
    again = resampled(Choice(), {"is_right": one & two}, suite_version=SUITE)["acc1"]
    assert (
        again <= both
    ).all()  # so it is in every single draw, since what is right in one is right in the other
    other = resampled(Choice(), {"is_right": one}, suite_version="b" * 16)["acc1"]
    assert not np.array_equal(both, other)


def test_a_group_that_is_not_drawn_is_left_out():
    columns = answers(50, seed=0)
    columns["group"] = np.array([1] + [0] * 49)
    drawn = resampled(Grouped(), columns, suite_version=SUITE)["acc1_worst_group"]
    assert not np.isnan(drawn).any()  # the other group has images in every draw
    alone = dict.fromkeys(columns, None) | {name: values[:1] for name, values in columns.items()}
    alone["group"] = np.array([-1])
    assert "acc1_worst_group" not in intervals_of(Grouped(), alone, suite_version=SUITE)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """200 sets of 200 images, of which a model has 70 % right in truth."""
    random = np.random.default_rng(5)
    covered = 0
    for number in range(200):
        columns = {"is_right": random.random(200) < 0.7}
        found = intervals_of(Choice(), columns, suite_version=f"{number:x}")["acc1"]
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 199
