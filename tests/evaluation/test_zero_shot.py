import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from towers.tiny import COLOURS, tiny_towers

from neuclip.evaluation.zero_shot import class_features, classification_metrics
from neuclip.foundation.errors import NumericsError

TEMPLATES = ["a photo of {c}", "{c}", "a {c} picture of {c} things"]


def test_class_features_equal_open_clips():
    """Oracle: open_clip.build_zero_shot_classifier, whose templates are functions here."""
    towers = tiny_towers()
    towers.model.eval()
    names = list(COLOURS)
    expected = open_clip.build_zero_shot_classifier(
        towers.model,
        towers.tokenize,
        names,
        [lambda c, t=t: t.replace("{c}", c) for t in TEMPLATES],
    )
    mine = class_features(towers, names, TEMPLATES, batch_size=4)
    torch.testing.assert_close(mine, expected.T, rtol=0, atol=1e-6)


def test_a_class_name_is_text_and_nothing_else():
    """Braces and dots of a name are not looked up, as str.format would."""
    towers = tiny_towers()
    towers.model.eval()
    mine = class_features(towers, ["{c.__class__}", "{0}"], ["a {c}"], batch_size=4)
    expected = towers.text_features(towers.tokenize(["a {c.__class__}", "a {0}"]))
    torch.testing.assert_close(mine, expected.detach(), rtol=0, atol=1e-6)


def test_a_hand_made_matrix():
    """Four images of classes 0, 0, 0, 1: the ranks of the own class are 0, 0, 1 and 0."""
    scores = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.0, 0.0, 0.0],
            [0.5, 0.4, 0.2, 0.0, 0.0, 0.0],
            [0.3, 0.4, 0.2, 0.0, 0.0, 0.0],
            [0.1, 0.4, 0.2, 0.0, 0.0, 0.0],
        ]
    )
    metrics = classification_metrics(scores, torch.eye(6), torch.tensor([0, 0, 0, 1]))
    assert metrics == {
        "acc1": 0.75,
        "acc5": 1.0,
        "mean_per_class_recall": pytest.approx((2 / 3 + 1) / 2),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_metrics_equal_sorting(seed, classes):
    """Oracle: sort the classes of each image, its own last among equals; integer scores make ties."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (17, classes)), rng.integers(0, classes, 17)
    places = []
    for row, label in zip(scores, labels, strict=True):
        order = sorted((-score, number == label) for number, score in enumerate(row))
        places.append([own for _, own in order].index(True))
    expected = {
        "acc1": np.mean([place < 1 for place in places]),
        "mean_per_class_recall": np.mean(
            [
                np.mean([p < 1 for p, own in zip(places, labels, strict=True) if own == c])
                for c in set(labels)
            ]
        ),
    }
    if classes > 5:
        expected["acc5"] = np.mean([place < 5 for place in places])
    metrics = classification_metrics(
        torch.tensor(scores, dtype=torch.float32), torch.eye(classes), torch.tensor(labels)
    )
    assert metrics == pytest.approx(expected)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(NumericsError, match="not finite"):
        classification_metrics(torch.full((1, 2), torch.nan), torch.eye(2), torch.tensor([0]))
