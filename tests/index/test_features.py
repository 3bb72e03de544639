"""Oracles: open_clip's own model and transform on the bytes in the tars; the table by hand."""

import io
import json
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import open_clip
import pytest
import torch
from made.acquired import Pair, png, some_pairs
from made.packed import pack
from PIL import Image
from pydantic import ValidationError
from torch.nn.functional import normalize
from towers.tiny import tiny_towers

from neuclip.curate.scores import ModelScore
from neuclip.foundation.errors import CheckpointError, NumericsError, ShapeError
from neuclip.index.config import IndexConfig
from neuclip.index.features import FeatureBatch
from neuclip.scoring.sample_features import ShardEncoder
from neuclip.stages.manifest import read_manifest
from neuclip.towers.folder import save_towers

FIRST, SECOND = some_pairs(50), some_pairs(30, first=50)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_towers(tiny_towers(), folder)
    return str(folder)


def packed_with(root, partitions, model, *, clusters=None, encoder=None, key="key"):
    config = IndexConfig(features=ModelScore(model=model, batch_size=16), clusters=clusters)
    encoder = encoder or ShardEncoder(config.features)
    return pack(root, partitions, index_config=config, encoder=encoder, key=key)


def rows_of(packed, table, columns="*"):
    with duckdb.connect(f"{packed.index}/index.duckdb", read_only=True) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY sample_id").fetchall()


def test_features_are_those_that_open_clip_computes(tmp_path, model):
    packed = packed_with(tmp_path, [FIRST], model)
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{model}")
    expected = {}
    for path in (Path(packed.shard).parent / "parts").glob("*/shard-*.tar"):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in files:
            if name.endswith(".json"):
                image = transform(
                    Image.open(io.BytesIO(files[name.replace(".json", ".png")])).convert("RGB")
                )
                text = tokenize([files[name.replace(".json", ".txt")].decode()])
                with torch.no_grad():
                    sides = clip.eval().encode_image(image[None]), clip.encode_text(text)
                expected[json.loads(files[name])["sample_id"]] = [
                    normalize(side)[0] for side in sides
                ]
    found = rows_of(packed, "features", "sample_id, image_feature, text_feature")
    assert [row[0] for row in found] == sorted(expected)
    for sample_id, *sides in found:
        for side, wanted in zip(sides, expected[sample_id], strict=True):
            torch.testing.assert_close(torch.tensor(side), wanted, rtol=0, atol=1e-5)


def test_appended_samples_alone_are_encoded(tmp_path, model):
    one = packed_with(tmp_path, [FIRST], model, clusters=4, key="one")
    asked = []

    class Counting(ShardEncoder):
        def encode(self, shard_uri, members):
            for batch in super().encode(shard_uri, members):
                asked.extend(batch.sample_ids.tolist())
                yield batch

    again = Counting(ModelScore(model=model, batch_size=16))
    two = packed_with(tmp_path, [FIRST, SECOND], model, clusters=4, encoder=again, key="two")
    old, new = rows_of(one, "features"), rows_of(two, "features")
    assert new[: len(old)] == old
    assert asked == [row[0] for row in new[len(old) :]]
    fresh = packed_with(tmp_path / "fresh", [FIRST], model, clusters=4, key="one")
    assert rows_of(fresh, "clusters") == rows_of(one, "clusters")
    assert len(rows_of(two, "clusters")) == len(new)


def test_every_sample_is_in_the_cluster_of_its_nearest_centroid(tmp_path, model):
    """Oracle: the mean direction of each cluster's members, in numpy; k-means has come to rest nearly everywhere."""
    packed = packed_with(tmp_path, [FIRST, SECOND], model, clusters=3)
    features = np.array([row[0] for row in rows_of(packed, "features", "image_feature")])
    clusters = np.array([row[0] for row in rows_of(packed, "clusters", "cluster")])
    assert set(clusters) == {0, 1, 2}
    means = np.stack([features[clusters == k].sum(axis=0) for k in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert ((features @ means.T).argmax(axis=1) == clusters).mean() > 0.95
    models = {row[0] for row in rows_of(packed, "clusters", "model")}
    assert models == {row[0] for row in rows_of(packed, "features", "model")}
    assert len(models) == 1


def test_an_image_that_breaks_off_is_left_out_and_counted(tmp_path, model):
    broken = [Pair(n, {"alt": ["broken"]}, content=png(n, (24, 24))[:80]) for n in range(900, 905)]
    packed = packed_with(tmp_path, [[*FIRST, *broken]], model)
    manifest = read_manifest(packed.index)
    (path,) = Path(packed.index).parent.glob("parts/*/features.parquet")
    part = path.parent
    ledger = read_manifest(str(part)).ledger
    assert 0 < ledger.dropped["undecodable"] <= 5
    assert ledger.out == len(rows_of(packed, "features"))
    assert ledger.entered == manifest.summary["samples"]


class Made:
    """An encoder whose features are made by hand."""

    model, width = "made", 4

    def __init__(self, spoil):
        self._spoil = spoil

    def encode(self, shard_uri, members):
        ids = np.arange(10)
        images = np.ones((10, 4), np.float32)
        yield FeatureBatch(ids, self._spoil(images), images)


def test_features_of_a_wrong_width_or_not_finite_are_refused(tmp_path, model):
    def nan(images):
        spoilt = images.copy()
        spoilt[7, 2] = np.nan
        return spoilt

    with pytest.raises(ShapeError, match=r"shape \(10, 3\), expected a width of 4"):
        packed_with(tmp_path / "a", [FIRST], model, encoder=Made(lambda images: images[:, :3]))
    with pytest.raises(NumericsError, match=r"image feature of sample 7 .* 1 of 10"):
        packed_with(tmp_path / "b", [FIRST], model, encoder=Made(nan))
    assert not list(tmp_path.glob("*/index/**/manifest.json"))


def test_what_cannot_be_asked_for_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="clusters 3 are made of features"):
        IndexConfig(clusters=3)
    with pytest.raises(CheckpointError, match=r"has no open_clip_config.json"):
        ShardEncoder(ModelScore(model=str(tmp_path)))
