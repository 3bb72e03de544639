"""Oracles: open_clip's own `accuracy`, CLIP_benchmark's rule for the mean over classes, and bounds in float64."""

from unittest.mock import patch

import pytest
import torch
from evaluation.scored import classified
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip_train import zero_shot


def as_everybody(images, classes, labels):
    """What open_clip and CLIP_benchmark make of the same features."""
    logits = 100.0 * images @ classes.T
    ks = (1, 5) if len(classes) >= 5 else (1,)
    # Its float() of an array with one number is refused by numpy of 2.4 and later; the number is the same.
    with patch.object(zero_shot, "float", lambda array: array.item(), create=True):
        right = zero_shot.accuracy(logits, labels, topk=ks)
    expected = {f"acc{k}": count / len(labels) for k, count in zip(ks, right, strict=True)}
    is_right = logits.argmax(dim=1) == labels
    per_class = [is_right[labels == label].double().mean() for label in labels.unique()]
    return expected | {"mean_per_class_recall": float(torch.stack(per_class).mean())}


def bounds(images, classes, labels, k):
    """Return the least and the most that acc-k can be, however equal scores fall."""
    scores = images.double() @ classes.double().T
    own = scores.gather(1, labels[:, None])
    least = ((scores >= own).sum(dim=1) - 1 < k).double().mean()
    most = ((scores > own).sum(dim=1) < k).double().mean()
    return float(least), float(most)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 400),
    st.sampled_from(["twins", "few values", "one feature"]),
)
@example(0, 1000, "twins")
@example(1, 320, "few values")
@example(2, 5, "one feature")
@example(3, 4, "one feature")
def test_ties_fall_as_everywhere_else(seed, count, kind):
    """Integer features score exactly; classes of one feature, few values and one value for all make the ties."""
    random = torch.Generator().manual_seed(seed)
    low, high = {"twins": (-9, 10), "few values": (-1, 2), "one feature": (1, 2)}[kind]
    classes = torch.randint(low, high, (count, 4), generator=random).float()
    if kind == "twins" and count > 3:
        classes[count // 2] = classes[1]
        classes[-1] = classes[0]
    labels = torch.randint(0, count, (37,), generator=random)
    images = classes[labels] + torch.randint(-1, 2, (37, 4), generator=random)
    found = classified(images, classes, labels)
    assert found == pytest.approx(as_everybody(images, classes, labels), abs=1e-12)
    for k in (1, 5):
        if f"acc{k}" in found:
            least, most = bounds(images, classes, labels, k)
            assert least - 1e-9 <= found[f"acc{k}"] <= most + 1e-9


@pytest.mark.parametrize("count", [2, 3, 10, 320, 500, 1000])
def test_a_name_that_stands_twice_costs_one_of_its_two_classes(count):
    """A model that knows every name answers one of the two: of 500 images, one a class, it has 499 right."""
    classes = torch.eye(count)
    classes[-1] = classes[0]
    images, labels = classes.clone(), torch.arange(count)
    metrics = classified(images, classes, labels)
    assert metrics["acc1"] == as_everybody(images, classes, labels)["acc1"] == (count - 1) / count
    assert metrics["mean_per_class_recall"] == pytest.approx((count - 1) / count)
    assert metrics.get("acc5", 1.0) == 1.0


def test_two_names_that_stand_twice():
    """The list of ImageNet in open_clip has two such pairs; counting both sides as wrong told 0.9960 for 0.9980."""
    classes = torch.eye(1000)
    classes[517], classes[134 + 600] = classes[134], classes[600]
    metrics = classified(classes.clone(), classes, torch.arange(1000))
    assert metrics["acc1"] == 0.998


@pytest.mark.parametrize("count", range(1, 8))
def test_acc5_is_told_from_five_classes_on(count):
    metrics = classified(torch.eye(count), torch.eye(count), torch.arange(count))
    assert ("acc5" in metrics) == (count >= 5)
    assert set(metrics.values()) == {1.0}


@pytest.mark.parametrize("count", [2, 5, 100, 1000])
def test_one_feature_for_everything_is_chance(count):
    same = torch.ones(count, 3)
    metrics = classified(same, same, torch.arange(count))
    assert metrics["acc1"] == pytest.approx(1 / count)
    assert metrics["mean_per_class_recall"] == pytest.approx(1 / count)
    assert metrics.get("acc5", 5 / count) == pytest.approx(5 / count)


def test_the_mean_over_classes_is_over_those_that_have_images():
    """Balanced accuracy in float64: class 0 has 3 of 4 right, class 1 none of 1, class 2 no image."""
    classes, labels = torch.eye(3), torch.tensor([0, 0, 0, 0, 1])
    images = torch.eye(3)[[0, 0, 0, 1, 2]]
    metrics = classified(images, classes, labels)
    assert metrics == {"acc1": 0.6, "mean_per_class_recall": (3 / 4 + 0) / 2}
