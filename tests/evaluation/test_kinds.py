"""Oracles: clip_benchmark's own `evaluate`, scikit-learn, and groups worked out one by one."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import (
    image_caption_selection,
    zeroshot_classification,
    zeroshot_retrieval,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score
from torch.nn.functional import normalize

from neuclip.evaluation.bootstrap import measure
from neuclip.evaluation.kinds.choice import Choice
from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.kinds.grouped import Grouped
from neuclip.evaluation.kinds.kind import Scoring
from neuclip.evaluation.kinds.multilabel import Multilabel, average_precision
from neuclip.evaluation.kinds.retrieval import Retrieval
from neuclip.evaluation.main_metric import main_metric
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample

WIDTH = 8


class ByTable:
    """Towers whose images are features already, and whose texts have the feature that a table says."""

    embed_dim, device = WIDTH, torch.device("cpu")

    def __init__(self, texts, seed):
        self.numbers = {text: number for number, text in enumerate(texts)}
        random = torch.Generator().manual_seed(seed)
        self.features = normalize(torch.randn(len(texts), WIDTH, generator=random), dim=1)

    def tokenize(self, texts):
        return torch.tensor([self.numbers[text] for text in texts])

    def text_features(self, tokens):
        return self.features[tokens]

    encode_text = text_features

    def encode_image(self, images):
        return images.flatten(1)


def a_set(kind, **changes):
    return EvaluationSet("made", kind, (), "0" * 16, **changes)


def scored(kind, towers, suite, images, members):
    """What a kind makes of images that are features, each with its members."""
    samples = [TarSample(f"s{n}", dict(parts)) for n, parts in enumerate(members)]
    assert not [kind.wrong(sample, suite) for sample in samples if kind.wrong(sample, suite)]
    given_to_it = Scoring(towers, suite, images, samples, batch_size=7)
    return given_to_it, kind.columns(given_to_it)


def npy(numbers, **options):
    file = io.BytesIO()
    np.save(file, np.asarray(numbers), **options)
    return file.getvalue()


def drawn(count, seed):
    return normalize(
        torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1
    )


NAMES = [f"class {n}" for n in range(9)]
CLASSES = {"classnames": tuple(NAMES), "templates": ("a {c}", "the {c}")}
PROMPTS = [f"{word} {name}" for name in NAMES for word in ("a", "the")]


class Batches(list):
    """A loader of theirs."""

    dataset = SimpleNamespace(classes=NAMES)


def by_clip_benchmark(towers, images, targets):
    batches = Batches([(images, targets)])
    return zeroshot_classification.evaluate(
        towers, batches, towers.tokenize, NAMES, ["a {c}", "the {c}"], "cpu", amp=False
    )


@pytest.fixture
def their_accuracy(monkeypatch):
    """NumPy refuses what theirs does with arrays of one number; the rest of theirs stays."""

    def accuracy(output, target, topk=(1,)):
        best = output.topk(max(topk), dim=1).indices == target[:, None]
        return [best[:, :k].any(dim=1).double().mean().item() for k in topk]

    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)


@pytest.mark.parametrize("seed", range(3))
def test_classification(seed, their_accuracy):
    towers, images = ByTable(PROMPTS, seed), drawn(200, seed + 50)
    labels = np.random.default_rng(seed).integers(9, size=200)
    suite = a_set("classification", **CLASSES)
    given_to_it, columns = scored(
        Classification(), towers, suite, images, [{"cls": str(n).encode()} for n in labels]
    )
    found = measure(Classification(), columns)
    expected = by_clip_benchmark(towers, images, torch.from_numpy(labels))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    f1 = f1_score(labels, columns["answer"], average="macro", labels=np.unique(labels))
    assert found["f1_macro"] == pytest.approx(f1, abs=1e-6)
    assert Classification().chance(given_to_it, "acc5") == 5 / 9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 9))
def test_macro_f1_with_classes_that_are_not_there(seed, count, num_classes):
    random = np.random.default_rng(seed)
    label, answer = random.integers(num_classes, size=(2, count))
    found = measure(
        Classification(), {"label": label, "answer": answer, "is_right": label == answer}
    )
    expected = f1_score(label, answer, average="macro", labels=np.unique(label), zero_division=0)
    assert found["f1_macro"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_multilabel(seed):
    towers, images = ByTable(PROMPTS, seed), drawn(120, seed + 50)
    labels = np.random.default_rng(seed).random((120, 9)) < 0.2
    suite = a_set("multilabel", **CLASSES)
    _, columns = scored(
        Multilabel(), towers, suite, images, [{"npy": npy(row.astype(np.int64))} for row in labels]
    )
    found = measure(Multilabel(), columns)
    expected = by_clip_benchmark(towers, images, torch.from_numpy(labels))
    assert found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_average_precision_with_ties_and_weights(seed, count, values):
    """Oracle: scikit-learn, with how often an image counts as its weight."""
    random = np.random.default_rng(seed)
    scores = random.integers(values, size=count).astype(float)
    is_of, weights = random.random(count) < 0.4, random.integers(0, 3, size=(2, count))
    found = average_precision(scores, is_of, weights.astype(float))
    for one, drawn_as in zip(found, weights, strict=True):
        if (drawn_as * is_of).sum():
            expected = average_precision_score(is_of, scores, sample_weight=drawn_as)
            assert one == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(one)


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_with_several_captions(seed):
    random = np.random.default_rng(seed)
    captions = [[f"{n} {m}" for m in range(random.integers(1, 5))] for n in range(40)]
    towers, images = ByTable([one for own in captions for one in own], seed), drawn(40, seed + 50)
    _, columns = scored(
        Retrieval(),
        towers,
        a_set("retrieval"),
        images,
        [{"txt": "\n".join(own).encode()} for own in captions],
    )
    found = measure(Retrieval(), columns)
    batches = [(images[:23], captions[:23]), (images[23:], captions[23:])]
    theirs = zeroshot_retrieval.evaluate(
        towers, batches, towers.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    for k in (1, 5, 10):
        to_text, to_image = (
            found[f"{way}_recall_at_{k}"] for way in ("image_to_text", "text_to_image")
        )
        assert to_text == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
        assert to_image == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert found[f"mean_recall_at_{k}"] == pytest.approx((to_text + to_image) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_choice_among_captions(seed):
    captions = [[f"{n} {m}" for m in range(2)] for n in range(60)]
    towers, images = ByTable([one for own in captions for one in own], seed), drawn(60, seed + 50)
    given_to_it, columns = scored(
        Choice(),
        towers,
        a_set("choice"),
        images,
        [{"txt": "\n".join(own).encode()} for own in captions],
    )
    theirs = image_caption_selection.evaluate(
        towers,
        [(images.view(60, WIDTH, 1, 1), captions)],
        towers.tokenize,
        "cpu",
        amp=False,
    )
    assert measure(Choice(), columns)["acc1"] == pytest.approx(theirs["text_acc"], abs=1e-6)
    assert Choice().chance(given_to_it, "acc1") == 0.5


def test_a_caption_that_scores_the_same_is_not_the_right_one():
    """Else a model that gives everything one feature would choose all captions rightly."""
    towers = ByTable(["right", "wrong"], 0)
    towers.features = towers.features[:1].expand(2, -1)
    members = [{"txt": b"right\nwrong"}] * 3
    _, columns = scored(Choice(), towers, a_set("choice"), drawn(3, 1), members)
    assert measure(Choice(), columns) == {"acc1": 0.0}


@pytest.mark.parametrize("name", ["made", "wilds-fmow"])
def test_the_worst_group(name):
    """FMoW's region 5 is "Other", in which its own evaluation does not look."""
    towers, images = ByTable(PROMPTS, 0), drawn(300, 50)
    random = np.random.default_rng(0)
    labels, groups = random.integers(9, size=300), random.integers(6, size=300)
    labels[groups == 5] = 0
    suite = EvaluationSet(name, "classification", (), "0" * 16, **CLASSES)
    members = [
        {"cls": str(label).encode(), "npy": npy([group, 7])}
        for label, group in zip(labels, groups, strict=True)
    ]
    _, columns = scored(Grouped(), towers, suite, images, members)
    found = measure(Grouped(), columns)
    known = [group for group in range(6) if group != 5 or name == "made"]
    for metric, column in (("acc1", "is_right"), ("acc5", "is_in_5")):
        worst = min(columns[column][groups == group].mean() for group in known)
        assert found[f"{metric}_worst_group"] == pytest.approx(worst)
        assert found[metric] == pytest.approx(columns[column].mean())


@pytest.mark.parametrize(
    ("name", "metric", "kind"),
    [
        ("wilds-iwildcam", "f1_macro", Classification),
        ("iWildCam2020-WILDS", "f1_macro", Classification),
        ("wilds-fmow", "acc1_worst_group", Grouped),
        ("FMoW", "acc1_worst_group", Grouped),
        ("fmow_ood_val", "acc1_worst_group", Grouped),
        ("fairness-dollar_street", "acc5_worst_group", Grouped),
        ("Dollar-Street", "acc5_worst_group", Grouped),
        ("fairness-geode", "acc1_worst_group", Grouped),
        ("vtab-dtd", "acc1", Classification),
    ],
)
def test_a_set_is_told_in_the_metric_that_it_is_known_by(name, metric, kind):
    found = main_metric(EvaluationSet(name, "classification", (), "0" * 16, **CLASSES))
    assert (found.name, found.source, type(found.kind)) == (metric, "known", kind)


def test_a_name_of_a_metric_that_others_use():
    suite = a_set("classification", declared_metric="acc_top5_wg", **CLASSES)
    assert main_metric(suite)[:2] == ("acc5_worst_group", "declared")
    assert main_metric(a_set("multilabel", declared_metric="mAP", **CLASSES)).name == (
        "mean_average_precision"
    )


OBJECTS = npy([{"a": 1}], allow_pickle=True)
BAD_NPY = {
    "objects": (OBJECTS, "Object arrays cannot be loaded"),
    "no array": (b"nonsense", "no array of numbers"),
    "cut off": (npy([0] * 9)[:-5], "no array of numbers"),
    "two dimensions": (npy([[0] * 9]), "a row of numbers"),
    "words": (npy(["a"] * 9), "a row of numbers"),
    "nan": (npy([np.nan] * 9), "not whole"),
    "halves": (npy([0.5] * 9), "not whole"),
    "too few": (npy([0] * 8), "8 numbers"),
    "too many": (npy([0] * 10), "10 numbers"),
    "other numbers": (npy([2] * 9), "from 0 to 2"),
    "huge": (npy(np.zeros(200_000)), "bytes, expected at most"),
}


@pytest.mark.parametrize("what", BAD_NPY)
def test_labels_that_cannot_be_are_told(what):
    content, words = BAD_NPY[what]
    why = Multilabel().wrong(TarSample("s", {"npy": content}), a_set("multilabel", **CLASSES))
    assert why is not None
    assert why[0] == "bad_label"
    assert words in why[1]


@pytest.mark.parametrize("content", [OBJECTS, npy([]), npy([-1]), b"", b"x" * 200])
def test_groups_that_cannot_be_are_told(content):
    sample = TarSample("s", {"cls": b"1", "npy": content})
    why = Grouped().wrong(sample, a_set("classification", **CLASSES))
    assert why is not None
    assert why[0] == "bad_group"


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"one caption", "no_choice"), (b"\n \n", "no_choice"), (b"\xff\xfe", "bad_text")],
)
def test_choices_that_cannot_be_are_told(text, reason):
    why = Choice().wrong(TarSample("s", {"txt": text}), a_set("choice"))
    assert why is not None
    assert why[0] == reason
