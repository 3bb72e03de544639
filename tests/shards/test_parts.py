"""Oracles: what lies on the disk before and after, byte for byte; the order by hand from the tars themselves."""

import hashlib
import json
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, some_pairs
from made.packed import pack

from neuclip.acquired.partitions import rows_paths, texts_paths
from neuclip.curate.config import CurateConfig
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.randomness import keyed_hash
from neuclip.index.reader import read_samples
from neuclip.loading.order import BatchOrder
from neuclip.loading.selection_split import read_selection_split
from neuclip.loading.shard_files import ShardFiles
from neuclip.shards.config import ShardConfig
from neuclip.shards.pairs import Pairs
from neuclip.stages.manifest import read_manifest
from neuclip.storage.tables import connect

FIRST, SECOND, THIRD = some_pairs(60), some_pairs(45, first=60), some_pairs(30, first=105)


def members_of(packed):
    return pq.read_table(f"{packed.shard}/members.parquet").to_pylist()


def ids_of(packed):
    return {m["uid"]: m["sample_id"] for m in members_of(packed)}


def summary_of(packed):
    summary = read_manifest(packed.shard).summary
    return {name: summary[name] for name in ("reused_parts", "new_parts", "parts_given_up")}


def below(folder):
    """Return content and time of change of every file below a folder."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def rows_of(packed):
    with duckdb.connect(f"{packed.index}/index.duckdb", read_only=True) as connection:
        return connection.execute("SELECT * FROM samples ORDER BY sample_id").fetchall()


def in_the_tars(packed):
    """Read (sample id, uid, shard) of all training samples, shard by shard, with tarfile alone."""
    manifest = read_manifest(packed.shard)
    found = []
    for key in manifest.parts:
        for path in sorted((Path(packed.shard).parent / "parts" / key).glob("shard-*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        record = json.loads(tar.extractfile(member).read())
                        found.append(
                            (record["sample_id"], record["uid"], f"parts/{key}/{path.name}")
                        )
    return found


def test_appended_partitions_get_the_next_ids_and_nothing_old_changes(tmp_path):
    """Must show 6: twice appended, the order of the table's files turned round the second time."""
    one = pack(tmp_path, [FIRST], key="one")
    before, ids, rows = below(tmp_path), ids_of(one), rows_of(one)
    assert summary_of(one) == {"reused_parts": 0, "new_parts": 1, "parts_given_up": 0}

    two = pack(tmp_path, [FIRST, SECOND], key="two")
    assert summary_of(two) == {"reused_parts": 1, "new_parts": 1, "parts_given_up": 0}
    three = pack(tmp_path, [THIRD, SECOND, FIRST], key="three")
    assert summary_of(three) == {"reused_parts": 2, "new_parts": 1, "parts_given_up": 0}

    after = below(tmp_path)
    assert {path: after[path] for path in before} == before
    for later in (two, three):
        assert {uid: sample_id for uid, sample_id in ids_of(later).items() if uid in ids} == ids
        assert rows_of(later)[: len(rows)] == rows
    assert ids_of(two).items() <= ids_of(three).items()
    train = [i for i in ids_of(three).values() if i is not None]
    assert sorted(train) == list(range(len(train)))
    assert len(ids_of(three)) == 135

    found = in_the_tars(three)
    assert [sample_id for sample_id, *_ in found] == list(range(len(train)))
    assert [(row[0], row[1], row[4]) for row in rows_of(three)] == found


def test_training_visits_every_sample_of_all_parts_once(tmp_path):
    pack(tmp_path, [FIRST], key="one")
    packed = pack(tmp_path, [FIRST, SECOND], key="two")
    table = read_samples(packed.index)
    truth = in_the_tars(packed)
    assert [table.shards[place] for place in table.shard] == [shard for *_, shard in truth]
    order = BatchOrder(np.bincount(table.shard), seed=5, streams=1, global_batch=1)
    visited = [order.batch(step)[0] for step in range(table.count)]
    assert sorted(visited) == [(0, sample_id) for sample_id in range(table.count)]
    files = ShardFiles(packed.shard, cache_gb=1)
    for _, sample_id in visited:
        shard = files.open(table.shards[table.shard[sample_id]])
        record = shard.read(int(table.json_offset[sample_id]), int(table.json_size[sample_id]))
        assert (json.loads(record)["sample_id"], json.loads(record)["uid"]) == truth[sample_id][:2]


def test_held_out_pairs_come_in_the_order_of_the_parts(tmp_path):
    def held_out(packed):
        return read_selection_split(packed.shard, packed.index, max_samples=1000)

    one = held_out(pack(tmp_path, [FIRST], key="one"))
    two = held_out(pack(tmp_path, [FIRST, SECOND], key="two"))
    assert [pair.key for pair in two[: len(one)]] == [pair.key for pair in one]
    assert len(two) > len(one)


def test_the_index_reads_the_members_of_new_parts_alone(tmp_path):
    """Oracle: the old parts' member tables are gone, and the index is the same as one made of all."""
    one = pack(tmp_path / "a", [FIRST], key="one")
    old = read_manifest(one.shard).parts
    whole = pack(tmp_path / "b", [FIRST], key="one")
    assert read_manifest(whole.shard).parts == old
    whole = rows_of(pack(tmp_path / "b", [FIRST, SECOND], key="two"))

    import made.packed as made

    def hidden(config, **places):
        table = tmp_path / "a" / "shard" / "parts" / old[0] / "members.parquet"
        table.rename(tmp_path / "hidden")
        try:
            return run_index(config, **places)
        finally:
            (tmp_path / "hidden").rename(table)

    run_index, made.run_index = made.run_index, hidden
    try:
        two = pack(tmp_path / "a", [FIRST, SECOND], key="two")
    finally:
        made.run_index = run_index
    assert read_manifest(two.index).summary["reused_parts"] == 1
    assert rows_of(two) == whole


def test_a_part_that_lost_a_pair_is_packed_anew_with_what_follows(tmp_path):
    one = pack(tmp_path, [FIRST], key="one")
    pack(tmp_path, [FIRST, SECOND], key="two")
    before = below(tmp_path / "shard" / "parts")
    changed = [Pair(3, {"alt": ["another caption"]}), *(p for p in SECOND if p.number != 3)]
    three = pack(tmp_path, [FIRST, [p for p in SECOND if p.number != 77], THIRD], key="three")
    assert summary_of(three) == {"reused_parts": 1, "new_parts": 1, "parts_given_up": 1}
    assert ids_of(one).items() <= ids_of(three).items()
    four = pack(tmp_path, [[p for p in FIRST if p.number != 3], changed], key="four")
    assert summary_of(four)["reused_parts"] == 0
    after = below(tmp_path / "shard" / "parts")
    assert {path: after[path] for path in before} == before


def test_another_rule_tried_in_between_does_not_move_the_ids(tmp_path):
    """The run that is continued is the one of which most can stay, not the last one."""
    brief = CurateConfig.model_validate({"rules": [{"kind": "caption_words", "max": 2}]})
    pairs = [Pair(n, {"alt": ["two words" if n % 2 else "words, four of them"]}) for n in range(60)]
    one = pack(tmp_path, [pairs], key="one")
    tried = pack(tmp_path, [pairs], key="tried", curate=brief)
    assert (len(ids_of(tried)), summary_of(tried)["reused_parts"]) == (30, 0)
    two = pack(tmp_path, [pairs, SECOND], key="two")
    assert summary_of(two) == {"reused_parts": 1, "new_parts": 1, "parts_given_up": 0}
    assert ids_of(one).items() <= ids_of(two).items()


def test_other_settings_or_another_seed_continue_nothing(tmp_path):
    pack(tmp_path, [FIRST], key="one")
    assert summary_of(pack(tmp_path, [FIRST, SECOND], key="two", seed=1))["reused_parts"] == 0
    larger = ShardConfig(samples_per_shard=30, selection_share=0.2)
    assert summary_of(pack(tmp_path, [FIRST, SECOND], key="three", shard=larger)) == {
        "reused_parts": 0,
        "new_parts": 1,
        "parts_given_up": 0,
    }


def test_undecodable_pairs_stay_dropped_and_counted(tmp_path):
    lenient = ShardConfig(samples_per_shard=20, selection_share=0.2, max_undecodable_share=0.5)
    broken = Pair(999, {"alt": ["not a picture"]}, content=b"GIF89a is refused here")
    pack(tmp_path, [[*FIRST, broken]], key="one", shard=lenient)
    two = pack(tmp_path, [[*FIRST, broken], SECOND], key="two", shard=lenient)
    manifest = read_manifest(two.shard)
    assert (manifest.ledger.entered, manifest.ledger.dropped["undecodable"]) == (106, 1)
    assert manifest.summary["reused_parts"] == 1
    assert broken.uid not in ids_of(two)


def test_the_order_is_that_of_the_keyed_hash_of_the_uid(tmp_path):
    """Oracle: uids as Python integers, hashed one by one."""
    packed = pack(tmp_path, [FIRST, SECOND], seed=7)

    def hashed(uid, purpose):
        high, low = int(uid[:16], 16), int(uid[16:], 16)
        mixed = int(keyed_hash(np.uint64(high), seed=7)) ^ low
        return int(keyed_hash(np.uint64(mixed), seed=7, epoch=purpose))

    train = [m["uid"] for m in members_of(packed) if m["split"] == "train"]
    assert train == sorted(train, key=lambda uid: hashed(uid, 0))
    held_out = {m["uid"] for m in members_of(packed) if m["split"] == "selection"}
    assert held_out == {p.uid for p in [*FIRST, *SECOND] if hashed(p.uid, 1) < 0.2 * 2**64}


def test_a_part_that_lost_bytes_is_named(tmp_path):
    one = pack(tmp_path, [FIRST], key="one")
    shard = tmp_path / "shard" / "parts" / read_manifest(one.shard).parts[0] / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(IntegrityError, match=r"shard-000001.tar has .*--only shard --force"):
        pack(tmp_path, [FIRST, SECOND], key="two")


def test_force_writes_the_same_parts_again(tmp_path):
    """Which pairs are together stays, so do ids; a damaged part is whole again."""
    pack(tmp_path, [FIRST], key="one")
    two = pack(tmp_path, [FIRST, SECOND], key="two")
    parts = read_manifest(two.shard).parts
    folder = tmp_path / "shard" / "parts"
    contents = {path: content for path, (content, _) in below(folder).items()}
    victim = next((folder / parts[0]).glob("shard-*.tar"))
    victim.write_bytes(b"")
    (
        folder / parts[1] / "manifest.json"
    ).unlink()  # as a kill in the middle of its commit leaves it
    again = pack(tmp_path, [FIRST, SECOND], key="two", force=True)
    assert read_manifest(again.shard).parts == parts
    found = {path: content for path, (content, _) in below(folder).items()}
    for path, content in contents.items():
        assert path.name == "manifest.json" or found[path] == content


def test_a_uid_that_was_fetched_twice_is_refused(tmp_path):
    again = Pair(3, {"alt": ["the same uid"]}, picture=1000, url="http://127.0.0.1/other.png")
    with pytest.raises(IntegrityError, match=rf"with 60 different uids.*twice is {again.uid}"):
        pack(tmp_path, [FIRST, [again]])


def test_verdicts_on_pairs_that_acquire_does_not_have_are_refused(tmp_path):
    packed = pack(tmp_path, [FIRST])
    verdicts = pq.read_table(f"{packed.curate}/verdicts.parquet")
    strange = verdicts.slice(0, 1).set_column(0, "uid", [["f" * 32]])
    pq.write_table(pa.concat_tables([verdicts, strange]), tmp_path / "verdicts.parquet")
    rows, texts = rows_paths(packed.acquire), texts_paths(packed.acquire)
    with (
        connect(tmp_path) as connection,
        pytest.raises(IntegrityError, match=r"keeps 61 pairs, of which .* 60 as fetched"),
    ):
        Pairs(connection, tmp_path / "verdicts.parquet", rows, texts)


def test_texts_that_are_not_beside_their_rows_are_refused(tmp_path):
    packed = pack(tmp_path, [FIRST])
    texts = pq.read_table(texts_paths(packed.acquire)[0])
    shifted = texts.take([*range(1, len(texts)), 0])
    pq.write_table(shifted, tmp_path / "texts.parquet")
    verdicts = Path(packed.curate, "verdicts.parquet")
    with (
        connect(tmp_path) as connection,
        pytest.raises(IntegrityError, match="texts of 60 are another pair's"),
    ):
        Pairs(connection, verdicts, rows_paths(packed.acquire), [tmp_path / "texts.parquet"])
