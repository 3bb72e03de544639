"""Parts that several workers pack. Oracle: the same pairs packed one part after the other."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, some_pairs
from made.packed import pack
from made.pools import PicklingPool

from neuclip.foundation.errors import DataError
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest

pytestmark = pytest.mark.slow


def config(**fields):
    return ShardConfig(
        **{
            "samples_per_shard": 4,
            "selection_share": 0.2,
            "pairs_per_part": 10,
            "max_undecodable_share": 1.0,
            **fields,
        }
    )


def pairs(broken=()):
    return [
        Pair(
            n,
            {"alt": [f"pair {n}"], "rewrite": [f"{n}, again"]},
            content=b"GIF89a %d" % n if n in broken else None,
        )
        for n in range(95)
    ]


def files_of(root: Path) -> dict[str, bytes]:
    """Return all that the stage left, but for its manifests: they tell times."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "shard").rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def ids_of(packed):
    rows = pq.read_table(f"{packed.shard}/members.parquet").to_pylist()
    return [row["sample_id"] for row in rows if row["split"] == "train"]


@pytest.mark.parametrize("shares_files", [True, False], ids=["same disk", "root alone"])
@pytest.mark.parametrize("broken", [(), (3,), range(0, 95, 7)], ids=["none", "one", "many"])
def test_the_bytes_are_those_of_one_worker(tmp_path, broken, shares_files):
    made = [pairs(broken)[:50], pairs(broken)[50:]]
    alone = pack(tmp_path / "alone", made, shard=config())
    pool = PicklingPool(2, shares_files=shares_files)
    together = pack(tmp_path / "together", made, shard=config(), pool=pool)
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")
    assert read_manifest(together.shard).parts == read_manifest(alone.shard).parts
    assert ids_of(together) == list(range(len(ids_of(together))))
    assert len(pool.done) >= 10
    if not broken:
        assert len(pool.done) == 10


def test_no_part_is_packed_a_third_time(tmp_path):
    """What a part with ids of others has told of its images is known the second time."""
    pool = PicklingPool(5)
    broken = range(0, 95, 3)
    pack(tmp_path, [pairs(broken)], shard=config(), pool=pool)
    assert len(pool.done) <= 2 * 10


@pytest.mark.parametrize("lost", [0, 3, 9])
def test_a_lost_part_alone_is_packed_again(tmp_path, lost):
    made = [pairs(broken=(3, 50))]
    packed = pack(tmp_path, made, shard=config())
    before = files_of(tmp_path)
    key = read_manifest(packed.shard).parts[lost]
    shutil.rmtree(tmp_path / "shard/parts" / key)
    Path(packed.shard, "manifest.json").unlink()
    pool = PicklingPool(3)
    pack(tmp_path, made, shard=config(), pool=pool)
    assert pool.done == [f"shard-{key}"]
    assert files_of(tmp_path) == before


def test_forced_all_are_packed_again_to_the_same_bytes(tmp_path):
    made = [pairs(broken=(3, 50))]
    pack(tmp_path, made, shard=config())
    before = files_of(tmp_path)
    pool = PicklingPool(3, shares_files=False)
    pack(tmp_path, made, shard=config(), force=True, pool=pool)
    assert len(pool.done) == 10
    assert files_of(tmp_path) == before


def test_pairs_that_come_later_get_the_next_ids(tmp_path):
    first, second = some_pairs(25), some_pairs(18, first=25)
    for name, pool in (("alone", None), ("together", PicklingPool(4))):
        given = {} if pool is None else {"pool": pool}
        pack(tmp_path / name, [first], shard=config(), key="one", **given)
        after = pack(tmp_path / name, [first, second], shard=config(), key="two", **given)
        assert read_manifest(after.shard).summary["reused_parts"] == 3
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")


def test_too_many_unreadable_images_are_refused_as_by_one_worker(tmp_path):
    strict = config(max_undecodable_share=0.1)
    for name, pool in (("alone", {}), ("together", {"pool": PicklingPool(3)})):
        with pytest.raises(DataError, match=r"of 95 stored images cannot be read.*10.0%"):
            pack(tmp_path / name, [pairs(range(0, 95, 4))], shard=strict, **pool)
    assert not list((tmp_path / "together/shard").glob("plans/*"))


def test_no_plan_is_left_at_the_root(tmp_path):
    pack(tmp_path, [pairs()], shard=config(), pool=PicklingPool(3, shares_files=False))
    assert not [path for path in (tmp_path / "shard").rglob("*.parquet") if "plans" in path.parts]
