"""Oracles: the pairs made by hand and the order of the tars; what lies on the disk before and after, byte for byte."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, some_pairs
from made.committed import vouch_for
from made.packed import pack
from made.side_files import commit_side_files

from neuclip.captions.config import CaptionConfig
from neuclip.captions.sentences import Sentences
from neuclip.captions.template import Template
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import silent
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.erase import erase_side_part, find_side_parts
from neuclip.index.run import run_index
from neuclip.index.side_files import count_texts, side_records
from neuclip.loading.captions import Captions
from neuclip.loading.policies import PerSource
from neuclip.loading.views import TextView
from neuclip.loading.visits import Visit
from neuclip.shards.config import ShardConfig
from neuclip.stages.workspace import StageIdentity, commit_stage

FIRST, SECOND = some_pairs(50), some_pairs(30, first=50)
SPARSE = [Pair(200 + n, {"human": [f"person {n}", f"somebody {n}"]}) for n in range(12)]
SHARD = ShardConfig(samples_per_shard=12, selection_share=0.2, pairs_per_part=40)
EXTRA = CaptionConfig(derive=[Template(source="shouted", text="{alt}!"), Sentences(source="parts")])


def tars(packed):
    """Return shard -> uids of its samples in order, with tarfile alone."""
    found = {}
    folder = Path(packed.shard).parent
    for path in sorted(folder.glob("parts/*/*.tar")):
        with tarfile.open(path) as tar:
            members = [m for m in tar if m.name.endswith(".json")]
            uids = [json.loads(tar.extractfile(m).read())["uid"] for m in members]
        found[path.relative_to(folder).as_posix()] = uids
    return found


def captions_of(packed):
    return Captions(packed.index, cache_gb=1)


def choose(captions, shard, row, *, epoch, sample_id, weights):
    view = TextView(PerSource(weights=weights), lambda *_: None)
    return view.choose(captions, shard, row, Visit(0, epoch, sample_id)).text


def below(*folders):
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_every_sample_has_its_texts_in_the_order_of_its_shard(tmp_path):
    """Held-out samples too, and pairs without an alt text."""
    packed = pack(tmp_path, [FIRST, SPARSE, SECOND], shard=SHARD, caption=EXTRA)
    pairs = {pair.uid: pair.captions for pair in [*FIRST, *SPARSE, *SECOND]}
    captions = captions_of(packed)
    assert captions.sources == ["alt", "human", "parts", "rewrite", "shouted"]
    seen = []
    for shard, uids in tars(packed).items():
        for row, uid in enumerate(uids):
            expected = pairs[uid]
            for source in ("alt", "human", "rewrite"):
                assert captions.texts(source, shard, row) == expected.get(source, [])
            alt = expected.get("alt")
            assert captions.texts("shouted", shard, row) == ([f"{alt[0]}!"] if alt else [])
            assert captions.first(shard, row)[0] == (alt or expected["human"])[0]
            seen.append(uid)
    assert sorted(seen) == sorted(pairs)
    counts = {"alt": 80, "human": 24, "rewrite": 160, "shouted": 80, "parts": 80}
    assert count_texts(packed.index) == counts


def test_another_source_changes_no_tar_no_id_and_no_other_side_file(tmp_path):
    one = pack(tmp_path, [FIRST, SECOND], shard=SHARD, key="one")
    before = below(tmp_path / "shard" / "parts", tmp_path / "index" / "parts", tmp_path / "caption")
    two = pack(tmp_path, [FIRST, SECOND], shard=SHARD, caption=EXTRA, key="two")
    after = below(tmp_path / "shard" / "parts", tmp_path / "index" / "parts", tmp_path / "caption")
    assert {path: after[path] for path in before} == before
    assert tars(two) == tars(one)
    new = {path.parent for path in after.keys() - before.keys() if "index/parts" in str(path)}
    records = side_records(two.index)
    assert new == {Path(uri).parent for s in ("parts", "shouted") for uri, _ in records[s].values()}


def test_appended_pairs_get_side_files_of_their_own(tmp_path):
    """Oracle: old member tables and old caption parts are gone, and what comes is the same as of all at once."""
    one = pack(tmp_path / "a", [FIRST], shard=SHARD, key="one")
    pack(tmp_path / "b", [FIRST], shard=SHARD, key="one")
    whole = pack(tmp_path / "b", [FIRST, SECOND], shard=SHARD, key="two", force=True)
    caption_parts = {
        row["part"] for row in pq.read_table(f"{one.caption}/parts.parquet").to_pylist()
    }
    two = pack(tmp_path / "a", [FIRST, SECOND], shard=SHARD, key="two")
    # Made again without what is old: only the new parts' texts and members are asked for.
    for part in caption_parts:
        (tmp_path / "a" / "caption" / "parts" / part / "texts.parquet").unlink()
    (tmp_path / "a" / "index" / "index-two" / "manifest.json").unlink()
    pack(tmp_path / "a", [FIRST, SECOND], shard=SHARD, key="two")
    found, expected = side_records(two.index), side_records(whole.index)
    assert {s: {n: f.sha256 for n, (_, f) in files.items()} for s, files in found.items()} == {
        s: {n: f.sha256 for n, (_, f) in files.items()} for s, files in expected.items()
    }


def test_a_draw_by_weight_does_not_change_with_a_source_that_is_not_weighed(tmp_path):
    one = pack(tmp_path, [FIRST, SECOND], shard=SHARD, key="one")
    two = pack(tmp_path, [FIRST, SECOND], shard=SHARD, caption=EXTRA, key="two")
    weights = {"alt": 1.0, "rewrite": 2.0}
    before, after = captions_of(one), captions_of(two)
    for shard, uids in tars(one).items():
        for row in range(len(uids)):
            place = {"epoch": row % 3, "sample_id": 10 * row}
            place |= {"weights": weights}
            assert choose(before, shard, row, **place) == choose(after, shard, row, **place)


def test_texts_of_pairs_that_no_shard_has_are_refused(tmp_path):
    few = pack(tmp_path, [FIRST], shard=SHARD, key="few")
    many = pack(tmp_path, [FIRST, SECOND], shard=SHARD, key="many")
    identity = StageIdentity("index", STAGE_VERSION, "mixed", {}, {}, str(tmp_path))

    def mix(workspace):
        return run_index(
            IndexConfig(),
            shard_uri=few.shard,
            caption_uri=many.caption,
            root=str(tmp_path),
            workspace=workspace,
            progress=silent,
        )

    with pytest.raises(
        IntegrityError, match=r"source 'alt' are of 30 pairs that no shard of .*run `--from curate`"
    ):
        commit_stage(identity, mix)


def test_texts_are_found_for_a_takedown_although_the_shards_are_gone(tmp_path):
    packed = pack(tmp_path, [FIRST], shard=SHARD)
    gone = FIRST[7]
    shutil.rmtree(tmp_path / "shard")
    stage = str(tmp_path / "index")
    found = find_side_parts(stage, {gone.uid})
    assert len(found) == 2  # alt and rewrite
    for part, rows in found.items():
        erase_side_part(f"{stage}/parts/{part}", rows, 1, tmp_path)
    left = b"".join(path.read_bytes() for path in Path(packed.index).parent.glob("parts/*/*.arrow"))
    for pair in FIRST:
        texts = [text.encode() for of_source in pair.captions.values() for text in of_source]
        is_left = [text in left for text in texts]
        assert all(is_left) == (pair is not gone)


def damaged(tmp_path, damage):
    packed = pack(tmp_path, [FIRST], shard=SHARD)
    shard, (uri, _) = next(iter(side_records(packed.index)["alt"].items()))
    damage(Path(uri), packed)
    captions_of(packed).texts("alt", shard, 0)


def test_a_side_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(
        IntegrityError, match=r"cannot read side file .*\.arrow.*--only index --force"
    ):
        damaged(tmp_path, lambda path, _: path.unlink())


def test_a_side_file_that_is_cut_is_named_by_size(tmp_path):
    with pytest.raises(IntegrityError, match=r"side file .* has 100 bytes .* expected \d+ bytes"):
        damaged(tmp_path, lambda path, _: path.write_bytes(path.read_bytes()[:100]))


def test_a_flipped_bit_is_found(tmp_path):
    def flip(path, _):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    with pytest.raises(IntegrityError, match=r"side file .* with SHA-256 .* as it was committed"):
        damaged(tmp_path, flip)


def test_a_side_file_of_another_shard_is_refused(tmp_path):
    """Its manifest vouches for it, so only the file itself can tell."""

    def exchange(path, _):
        other = next(p for p in sorted(path.parent.glob("*.arrow")) if p != path)
        path.write_bytes(other.read_bytes())
        vouch_for(path, path.parent)

    with pytest.raises(
        IntegrityError, match=r"holds texts of source 'alt' of .*, expected 'alt' of"
    ):
        damaged(tmp_path, exchange)


def test_a_short_side_file_fails_preflight_before_it_is_read(tmp_path):
    packed = pack(tmp_path, [FIRST], shard=SHARD)
    (uri, _) = next(iter(side_records(packed.index)["rewrite"].values()))
    Path(uri).write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"\.arrow has 0 bytes, expected \d+ bytes"):
        count_texts(packed.index)


def test_an_index_with_files_that_no_shard_has_is_named(tmp_path):
    uri = commit_side_files(tmp_path, {"alt": {"parts/p/shard-000000.tar": [["a text"]]}})
    captions = Captions(uri, cache_gb=1)
    assert captions.texts("alt", "parts/p/shard-000000.tar", 0) == ["a text"]
    with pytest.raises(IntegrityError, match=r"has texts of 1 samples, and the index has sample 1"):
        captions.texts("alt", "parts/p/shard-000000.tar", 1)
    with pytest.raises(
        IntegrityError, match=r"has side file parts/p/shard-000001\.tar, which no part"
    ):
        captions.texts("alt", "parts/p/shard-000001.tar", 0)
