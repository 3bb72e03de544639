"""Oracle: the member table of the shards, joined in Python."""

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import some_pairs
from made.packed import pack

from neuclip.foundation.errors import IntegrityError
from neuclip.index.reader import read_samples


def test_the_index_names_every_training_sample(tmp_path):
    pairs = some_pairs(60)
    packed = pack(tmp_path, [pairs])
    tables = ("features", "clusters", "sample_statistics")
    members = [
        m
        for m in pq.read_table(f"{packed.shard}/members.parquet").to_pylist()
        if m["split"] == "train"
    ]
    with duckdb.connect(f"{packed.index}/index.duckdb", read_only=True) as connection:
        rows = connection.execute(
            "SELECT sample_id, uid, uid_hi, uid_lo, shard FROM samples ORDER BY sample_id"
        ).fetchall()
        for table in tables:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
    assert [row[:2] for row in rows] == [(m["sample_id"], m["uid"]) for m in members]
    for _, uid, high, low, _ in rows:
        assert f"{high:016x}{low:016x}" == uid


def test_the_reader_finds_every_image(tmp_path):
    packed = pack(tmp_path, [some_pairs(60)])
    table = read_samples(packed.index)
    members = pq.read_table(f"{packed.shard}/members.parquet").to_pylist()
    train = [m for m in members if m["split"] == "train"]
    assert table.count == len(train)
    assert [table.shards[i] for i in table.shard] == [m["shard"] for m in train]
    np.testing.assert_array_equal(table.image_offset, [m["image_offset"] for m in train])


def test_a_truncated_shard_is_refused_with_sizes(tmp_path):
    packed = pack(tmp_path, [some_pairs(60)])
    path = tmp_path / "index" / "index-key" / "index.duckdb"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"index.duckdb has 1000 bytes, expected \d+"):
        read_samples(packed.index)
