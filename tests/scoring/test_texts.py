"""Which scores are computed anew when texts change. Oracle: the texts that each one is promised to look at."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired, commit_made_texts

from neuclip.curate.scores import ClipScore, Embedding, Language, PHash
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import silent
from neuclip.scoring.pool_scores import run_scores
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


def retell(root, partitions, key):
    """Commit another stage of the same partitions, with the texts that the pairs have now."""
    before = read_manifest(f"{root}/acquire/acquired")
    identity = StageIdentity("acquire", 1, key, {}, {}, str(root))

    def work(workspace):
        listed = pq.read_table(f"{root}/acquire/acquired/partitions.parquet").to_pylist()
        rows = [
            {**row, "texts": commit_made_texts(root, pairs)}
            for row, pairs in zip(listed, partitions, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows), workspace.output / "partitions.parquet")
        return Outcome(before.ledger, parts=before.parts)

    commit_stage(identity, work)
    return identity.uri


def scores_of(model):
    return {
        "phash": PHash(kind="phash"),
        "embedding": Embedding(kind="embedding", model=str(model)),
        "language": Language(kind="language"),
        "clip": ClipScore(kind="clip_score", model=str(model), name="clip"),
        "rewritten": ClipScore(
            kind="clip_score", model=str(model), name="rewritten", source="rewrite"
        ),
    }


def test_a_text_costs_the_scores_of_its_source_and_partition_alone(tmp_path, model, partitions):
    partitions[1][0].captions["rewrite"] = ["a rewritten text"]

    def folders(uri):
        found = run_scores(
            list(scores_of(model).values()), root=str(tmp_path), acquire_uri=uri, progress=silent
        )
        return {one.name: one.folders for one in found}

    def changed(now):
        return {
            (name, number)
            for name, every in now.items()
            for number, folder in enumerate(every)
            if folder != first[name][number]
        }

    first = folders(commit_acquired(tmp_path, partitions))
    count = len(list(tmp_path.glob("score/parts/*")))
    partitions[0][0].captions["title"] = ["a source that no score looks at"]
    assert changed(folders(retell(tmp_path, partitions, "titled"))) == set()
    partitions[0][0].captions["alt"][0] = "another alt text"
    assert changed(folders(retell(tmp_path, partitions, "alt"))) == {("language", 0), ("clip", 0)}
    partitions[0][0].captions["alt"][0] = "a photo of red"
    partitions[1][0].captions["rewrite"].append("one more")
    assert changed(folders(retell(tmp_path, partitions, "more"))) == {("rewritten", 1)}
    assert len(list(tmp_path.glob("score/parts/*"))) == count + 3


@pytest.mark.parametrize("name", ["language", "rewritten"])
def test_a_source_that_no_pair_has_is_told_before_anything_is_scored(tmp_path, model, name):
    pairs = [Pair(n, {"alt": ["a red ball"], "rewrites": ["a ball"]}) for n in range(2)]
    score = scores_of(model)[name].model_copy(update={"source": "rewrite"})
    uri = commit_acquired(tmp_path, [pairs])
    with pytest.raises(ConfigError) as caught:
        run_scores(
            [PHash(kind="phash"), score], root=str(tmp_path), acquire_uri=uri, progress=silent
        )
    said = str(caught.value)
    assert f"{name} names the caption source 'rewrite'" in said
    assert "sources here: alt, rewrites" in said
    assert "Did you mean 'rewrites'?" in said
    assert not list(tmp_path.glob("score/parts/*"))


def test_alt_texts_of_a_table_without_any_are_counted_as_missing(tmp_path):
    pairs = [Pair(n, {"rewrite": ["a ball"]}) for n in range(2)]
    found = run_scores(
        [Language(kind="language")],
        root=str(tmp_path),
        acquire_uri=commit_acquired(tmp_path, [pairs]),
        progress=silent,
    )[0]
    assert found.record["without_value"] == {"no_caption": 2}
