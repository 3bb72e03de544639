"""Parts of bounded size. Oracles: the tars themselves, and a packing that nobody ended.

`NEUCLIP_PACKED_PAIRS=200000 NEUCLIP_KILLS=10` packs as many and kills as often, and tells memory and disk.
"""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, png, some_pairs
from made.kills import KILLS
from made.packed import pack

from neuclip.curate.config import CurateConfig
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest

COUNT = int(os.environ.get("NEUCLIP_PACKED_PAIRS", "4000"))
PARTS = 10
SMALL = {"samples_per_shard": 10, "selection_share": 0.2}


def members_of(packed):
    return pq.read_table(f"{packed.shard}/members.parquet").to_pylist()


def test_every_pair_is_in_one_part_and_ids_run_through_all(tmp_path):
    config = ShardConfig(**SMALL, pairs_per_part=25)
    packed = pack(tmp_path, [some_pairs(60), some_pairs(45, first=60)], shard=config)
    manifest = read_manifest(packed.shard)
    ledgers = [read_manifest(f"{tmp_path}/shard/parts/{part}").ledger for part in manifest.parts]
    assert [ledger.entered for ledger in ledgers] == [25, 25, 25, 25, 5]
    members = members_of(packed)
    assert len({member["uid"] for member in members}) == len(members) == 105
    ids = [member["sample_id"] for member in members if member["sample_id"] is not None]
    assert ids == list(range(len(ids)))
    assert len(ids) == manifest.ledger.out == sum(ledger.out for ledger in ledgers)


def test_a_part_is_a_random_draw_of_all_and_not_a_stretch_of_the_table(tmp_path):
    config = ShardConfig(**SMALL, pairs_per_part=50)
    pairs = some_pairs(200)
    packed = pack(tmp_path, [pairs[:100], pairs[100:]], shard=config)
    number = {pair.uid: pair.number for pair in pairs}
    first = read_manifest(packed.shard).parts[0]
    drawn = [number[m["uid"]] for m in members_of(packed) if m["shard"].split("/")[1] == first]
    assert len(drawn) == 50
    assert 10 < sum(n < 100 for n in drawn) < 40


def test_parts_do_not_depend_on_the_order_of_the_table(tmp_path):
    config = ShardConfig(**SMALL, pairs_per_part=30)
    there, back = some_pairs(60), some_pairs(40, first=60)
    one = pack(tmp_path / "a", [there, back], shard=config)
    two = pack(tmp_path / "b", [back, there], shard=config)
    assert read_manifest(one.shard).parts == read_manifest(two.shard).parts
    assert members_of(one) == members_of(two)


def test_pairs_that_come_later_fill_parts_of_their_own(tmp_path):
    config = ShardConfig(**SMALL, pairs_per_part=40)
    first, second = some_pairs(100), some_pairs(50, first=100)
    before = pack(tmp_path, [first], key="one", shard=config)
    after = pack(tmp_path, [first, second], key="two", shard=config)
    assert len(read_manifest(before.shard).parts) == 3
    assert len(read_manifest(after.shard).parts) == 5
    assert read_manifest(after.shard).parts[:3] == read_manifest(before.shard).parts
    ids = {member["uid"]: member["sample_id"] for member in members_of(after)}
    assert {
        member["uid"]: member["sample_id"] for member in members_of(before)
    }.items() <= ids.items()


def begin(root: Path) -> dict[str, object]:
    """Lay out all that is above packing; return the arguments of `pack`."""
    picture = png(1, (24, 24))
    pairs = [Pair(n, {"alt": [f"picture number {n}"]}, content=picture) for n in range(COUNT)]
    config = ShardConfig(
        samples_per_shard=max(10, COUNT // 40),
        selection_share=0.02,
        pairs_per_part=COUNT // PARTS,
    )
    given = {"partitions": [pairs], "curate": CurateConfig(rules=[]), "shard": config}
    child = start(root, given)
    while not list(root.glob("caption/*/manifest.json")) and child.is_alive():
        time.sleep(0.001)
    child.kill()
    child.join()
    shutil.rmtree(root / "shard", ignore_errors=True)
    return given


def start(root: Path, given: dict[str, object]) -> multiprocessing.Process:
    child = multiprocessing.get_context("fork").Process(target=pack, args=(root,), kwargs=given)
    child.start()
    return child


def committed(root: Path) -> dict[str, int]:
    """Return the committed parts, and when each was."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in root.glob("shard/parts/*/manifest.json")
    }


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "shard").rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_packing_that_is_killed_packs_one_part_again_at_most(tmp_path):
    given = begin(tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    began = time.monotonic()
    start(tmp_path / "whole", given).join()
    takes_s = time.monotonic() - began
    whole = files_of(tmp_path / "whole")
    assert len(committed(tmp_path / "whole")) == PARTS
    draw, kills, journeys = random.Random(1), 0, 0
    while kills < KILLS:
        root = tmp_path / f"killed-{journeys}"
        journeys += 1
        shutil.copytree(tmp_path / "begun", root)
        is_done = False
        while not is_done:
            before = committed(root)
            child = start(root, given)
            child.join(draw.uniform(0.1, 0.6) * takes_s if kills < KILLS else None)
            is_done = not child.is_alive()
            child.kill()
            child.join()
            kills += not is_done
            assert before.items() <= committed(root).items(), "a committed part was packed again"
        assert files_of(root) == whole
        shutil.rmtree(root)
    print(f"{kills} kills in {journeys} packings of {COUNT} pairs, {takes_s:.1f} s undisturbed")
