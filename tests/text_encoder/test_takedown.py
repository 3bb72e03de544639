"""What a takedown leaves of features. Oracle: the files before, read by numpy."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import some_pairs
from made.encoded import encode_texts, encoded, index_features, settings
from made.packed import pack
from made.text_encoders import llama
from pyarrow import ipc

from neuclip.captions.text_features import FEATURES, ROWS, feature_parts
from neuclip.index.side_files import feature_records, side_records
from neuclip.shards.config import ShardConfig
from neuclip.stage_list import STAGES
from neuclip.stages.manifest import read_manifest, verify_sizes


def texts_of(path):
    with ipc.open_file(path) as file:
        return file.read_all()["texts"].to_pylist()


def take_down(root, uids, tmp_path, number=1):
    """Erase as a takedown does, by what each stage says."""
    erased = []
    for stage in STAGES:
        if stage.name in ("caption", "text_encoder", "index"):
            for uri, erase in stage.erasures(f"{root}/{stage.name}", uids).items():
                erase(number, tmp_path / "scratch")
                erased.append(uri)
    return erased


def by_uid(index):
    """Return source -> uid -> features of its texts, from side files."""
    found = {}
    texts, features = side_records(index), feature_records(index)
    for source in features:
        for shard, (uri, _) in features[source].items():
            rows = np.load(uri)
            lists = texts_of(texts[source][shard][0])
            assert len(rows) == sum(map(len, lists))
            samples = pq.read_table(Path(uri).with_name("samples.parquet")).to_pylist()
            names = [one["uid"] for one in samples if Path(one["shard"]).name == Path(shard).name]
            first = 0
            for uid, of_row in zip(names, lists, strict=True):
                found.setdefault(source, {})[uid] = rows[first : first + len(of_row)]
                first += len(of_row)
    return found


@pytest.fixture
def lake(tmp_path):
    folder = llama(tmp_path / "model")
    root = tmp_path / "lake"
    packed = pack(
        root, [some_pairs(60)], shard=ShardConfig(samples_per_shard=15, selection_share=0.2)
    )
    return root, encoded(root, packed, folder), folder


def test_features_go_and_those_of_others_stay_where_their_texts_are(lake, tmp_path):
    root, packed, _ = lake
    before = by_uid(packed.index)
    gone = {pair.uid for pair in some_pairs(60)[3:60:9]}
    of_gone = [row for found in before.values() for uid in gone & set(found) for row in found[uid]]
    assert len(of_gone) > 6
    erased = take_down(root, gone, tmp_path)
    after = by_uid(packed.index)
    for source, found in before.items():
        for uid, rows in found.items():
            kept = rows[:0] if uid in gone else rows
            np.testing.assert_array_equal(after[source][uid], kept)
    for row in feature_parts(packed.text_encoder):
        table = pq.read_table(Path(row["uri"]) / ROWS).to_pylist()
        features = np.load(Path(row["uri"]) / FEATURES)
        for one, feature in zip(table, features, strict=True):
            assert (one["uid"] in gone) == (one["k"] is None) == (not feature.any())
    left = b"".join(path.read_bytes() for path in root.rglob("*.npy"))
    assert not any(row.tobytes() in left for row in of_gone)
    for uri in erased:
        verify_sizes(uri, read_manifest(uri))
    assert set(take_down(root, gone, tmp_path)) == set(erased)  # again, to the same end
    assert by_uid(packed.index).keys() == after.keys()


def test_an_index_that_is_made_after_it_has_the_same_features(lake, tmp_path):
    root, packed, folder = lake
    gone = {pair.uid for pair in some_pairs(60)[3:60:9]}
    take_down(root, gone, tmp_path)
    after = by_uid(packed.index)
    uri = encode_texts(root, packed.caption, settings(folder), key="anew")
    again = index_features(root, packed, uri, key="anew")
    for source, found in by_uid(again).items():
        for uid, rows in found.items():
            np.testing.assert_array_equal(rows, after[source][uid])
