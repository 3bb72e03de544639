import open_clip
import pytest
import torch
from evaluation.scored import classified
from towers.tiny import COLOURS, tiny_towers

from neuclip.evaluation.zero_shot import class_features
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
    metrics = classified(scores, torch.eye(6), torch.tensor([0, 0, 0, 1]))
    assert metrics == {
        "acc1": 0.75,
        "acc5": 1.0,
        "mean_per_class_recall": pytest.approx((2 / 3 + 1) / 2),
    }


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["image", "class"])
def test_features_that_are_not_finite_are_refused(broken, place):
    images, classes = torch.eye(2), torch.eye(2)
    (images if place == "image" else classes)[1, 0] = broken
    with pytest.raises(NumericsError, match="not finite"):
        classified(images, classes, torch.tensor([0, 1]))


def test_classes_of_one_name_have_the_same_features():
    """Whatever batch a prompt falls into: only then do the images of both classes tie, as they do everywhere else."""
    towers = tiny_towers()
    towers.model.eval()
    names = ["crane", "red", "green", "blue", "crane", "grey", "red", "crane"]
    features = class_features(towers, names, TEMPLATES, batch_size=3)
    assert torch.equal(features[0], features[4])
    assert torch.equal(features[0], features[7])
    assert torch.equal(features[1], features[6])
