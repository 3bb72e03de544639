"""Oracle: the same partitions, model and evaluation set in a local folder."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import commit_acquired
from made.scenes import file_of, scene
from towers.tiny import write_tar

from neuclip.curate.near_images import near_duplicates, read_descriptors
from neuclip.curate.scores import ClipScore, Embedding, Language, PHash
from neuclip.foundation.progress import silent
from neuclip.scoring.evaluation_images import score_evaluation_sets
from neuclip.scoring.pool_scores import run_scores
from neuclip.storage.cache import local_copy
from neuclip.storage.files import upload


@pytest.mark.s3
def test_scores_in_a_bucket_are_those_in_a_folder(
    tmp_path, s3_bucket, monkeypatch, partitions, model
):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    local_set = tmp_path / "wds_scenes"
    write_tar(local_set / "test" / "0.tar", [("a.png", file_of(scene(1))), ("a.txt", b"a scene")])
    (local_set / "test" / "nshards.txt").write_text("1")
    (local_set / "dataset_type.txt").write_text("retrieval")
    for folder, name in ((model, "model"), (local_set, "wds_scenes")):
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            upload(path, f"{s3_bucket}/{name}/{path.relative_to(folder).as_posix()}")

    def scored(root, model_uri, set_uri):
        uri = commit_acquired(root, partitions)
        scores = [
            PHash(kind="phash", name="phash"),
            Language(kind="language"),
            ClipScore(kind="clip_score", model=model_uri),
            Embedding(kind="embedding", model=model_uri),
        ]
        found = run_scores(scores, root=root, acquire_uri=uri, progress=silent)
        return found, score_evaluation_sets([set_uri], scores, root=root, progress=silent)

    there, sets_there = scored(f"{s3_bucket}/lake", f"{s3_bucket}/model", f"{s3_bucket}/wds_scenes")
    here, sets_here = scored(str(tmp_path / "lake"), str(model), str(local_set))
    for one, other in zip(there, here, strict=True):
        assert (one.name, one.columns, one.record) == (other.name, other.columns, other.record)
        for far, near in zip(one.folders, other.folders, strict=True):
            assert far.startswith(s3_bucket)
            tables = [
                pq.read_table(local_copy(f"{folder}/scores.parquet")) for folder in (far, near)
            ]
            assert tables[0].equals(tables[1])
    for score in ("phash", "embedding"):
        for name in {"phash": ["hashes", "pictures"], "embedding": ["image_features"]}[score]:
            far, near = (
                np.load(local_copy(f"{sets[0].scores[score]}/{name}.npy"))
                for sets in (sets_there, sets_here)
            )
            np.testing.assert_array_equal(far, near)
    parts, rows = np.array([0, 1, 1, 0]), np.array([0, 1, 2, 1])
    keepers = [
        near_duplicates(read_descriptors(found[0].folders, parts, rows), scratch=tmp_path).tolist()
        for found in (there, here)
    ]
    assert keepers[0] == keepers[1]
