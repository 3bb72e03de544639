"""Oracles: the webdataset library and tarfile read what we write; a rerun writes the same bytes."""

import gc
import hashlib
import json
import tarfile
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds
from made.acquired import Pair, png, some_pairs
from made.packed import pack

from neuclip.foundation.errors import DataError
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest


def members_of(packed):
    return pq.read_table(f"{packed.shard}/members.parquet").to_pylist()


def folder_of(packed):
    return Path(packed.shard).parent


def digests(packed):
    """SHA-256 of what is in the stage's folder and in its parts."""
    manifest = read_manifest(packed.shard)
    found = {file.name: file.sha256 for file in manifest.files}
    for number, key in enumerate(manifest.parts):
        part = read_manifest(f"{folder_of(packed)}/parts/{key}")
        found |= {f"{number}/{file.name}": file.sha256 for file in part.files}
    return found


def test_a_rerun_writes_the_same_bytes_and_another_seed_does_not(tmp_path):
    partitions = [some_pairs(40), some_pairs(30, first=40)]
    first = digests(pack(tmp_path / "a", partitions))
    assert digests(pack(tmp_path / "b", partitions)) == first
    assert digests(pack(tmp_path / "c", partitions, seed=1)) != first
    assert {"0/shard-000000.tar", "0/shard-000001.tar", "0/selection-000000.tar"} < first.keys()


def test_offsets_lead_to_the_bytes_that_tarfile_finds(tmp_path):
    packed = pack(tmp_path, [some_pairs(50)])
    for member in members_of(packed):
        path = folder_of(packed) / member["shard"]
        with tarfile.open(path) as tar, path.open("rb") as file:
            info = tar.getmember(member["image_member"])
            assert (info.offset_data, info.size) == (member["image_offset"], member["image_size"])
            assert (info.mtime, info.uid, info.gid) == (0, 0, 0)
            file.seek(member["json_offset"])
            record = json.loads(file.read(member["json_size"]))
            assert set(record) == {"uid", "sample_id", "url", "width", "height"}
            assert record["uid"] == member["uid"]
            assert record["sample_id"] == member["sample_id"]
            file.seek(member["text_offset"])
            text = tar.extractfile(f"{member['uid']}.txt").read()
            assert file.read(member["text_size"]) == text
            file.seek(member["image_offset"])
            content = file.read(member["image_size"])
            assert hashlib.sha256(content).hexdigest() == member["image_sha256"]


def test_webdataset_reads_every_sample_once(tmp_path):
    pairs = some_pairs(50)
    packed = pack(tmp_path, [pairs])
    shards = sorted({f"{folder_of(packed)}/{m['shard']}" for m in members_of(packed)})
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # webdataset leaves closing to the collector
        samples = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False))
        gc.collect()
    by_uid = {sample["__key__"]: sample for sample in samples}
    assert len(samples) == len(by_uid) == 50
    for pair in pairs:
        assert by_uid[pair.uid]["txt"].decode() == pair.captions["alt"][0]
        assert by_uid[pair.uid]["png"] == png(pair.number, pair.size)


def test_a_pair_without_an_alt_text_is_packed_without_a_txt(tmp_path):
    pairs = [*some_pairs(30), Pair(77, {"human": ["a cat on a mat", "a cat"]})]
    packed = pack(tmp_path, [pairs])
    (row,) = [m for m in members_of(packed) if m["uid"] == pairs[-1].uid]
    assert (row["text_offset"], row["text_size"]) == (None, None)
    with tarfile.open(folder_of(packed) / row["shard"]) as tar:
        names = [name for name in tar.getnames() if name.startswith(row["uid"])]
    assert names == [row["image_member"], f"{row['uid']}.json"]


def test_sample_ids_are_dense_in_the_order_of_the_shards(tmp_path):
    train = [m for m in members_of(pack(tmp_path, [some_pairs(70)])) if m["split"] == "train"]
    assert [m["sample_id"] for m in train] == list(range(len(train)))
    assert [m["shard"] for m in train] == sorted(m["shard"] for m in train)
    uids = [m["uid"] for m in train]
    assert uids != sorted(uids)


def test_the_held_out_split_does_not_move_when_pairs_are_added(tmp_path):
    def held_out(packed):
        return {m["uid"] for m in members_of(packed) if m["split"] == "selection"}

    before = held_out(pack(tmp_path / "a", [some_pairs(60)]))
    after = held_out(pack(tmp_path / "b", [some_pairs(60), some_pairs(60, first=60)]))
    assert 0 < len(before) < 30
    assert before == after & {pair.uid for pair in some_pairs(60)}


def test_an_unreadable_image_is_counted(tmp_path):
    pairs = [
        *some_pairs(20),
        Pair(99, {"alt": ["not a picture"]}, content=b"GIF89a is refused here"),
    ]
    config = ShardConfig(samples_per_shard=8, selection_share=0.2, max_undecodable_share=0.1)
    ledger = read_manifest(pack(tmp_path, [pairs], shard=config).shard).ledger
    assert ledger.entered == 21
    assert ledger.dropped["undecodable"] == 1
    strict = ShardConfig(samples_per_shard=8, selection_share=0.2, max_undecodable_share=0.0)
    with pytest.raises(DataError, match="1 of 21 stored images cannot be read"):
        pack(tmp_path / "strict", [pairs], shard=strict)
