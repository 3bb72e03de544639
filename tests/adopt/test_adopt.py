"""Oracle: shards made by hand, whole or with one thing wrong, and the rows each must become."""

import os
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.ready import Sample, add, failed, write_ready, write_resharded, write_table, write_tar

from neuclip.acquired.partitions import partition_folders
from neuclip.acquired.reasons import REASONS
from neuclip.acquired.refusals import TAKEDOWNS, TakedownRecord
from neuclip.adopt import parts
from neuclip.adopt.shards import fingerprint_shards
from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.foundation.ids import uid_of
from neuclip.stages.manifest import is_committed, part_uri, read_manifest
from neuclip.storage.files import list_files, upload, write_bytes


def test_a_shard_becomes_a_part_and_its_tar_stays_where_it_is(adopt, tmp_path):
    samples = [
        Sample(3),
        failed(1),
        Sample(2, size=(30, 20)),
        failed(4, "<urlopen error timed out>"),
    ]
    tar = write_ready(tmp_path / "ready", "00007", samples)
    before = tar.read_bytes()
    adopted = adopt(tmp_path / "ready")
    rows = adopted.rows()
    assert [(row["uid"], row["status"], row["reason"]) for row in rows] == [
        (samples[0].uid, "success", None),
        (samples[1].uid, "failed", "http_404"),
        (samples[2].uid, "success", None),
        (samples[3].uid, "failed", "timeout"),
    ]
    assert (rows[2]["width"], rows[2]["height"]) == (30, 20)
    assert (rows[2]["original_width"], rows[2]["sha256"]) == (60, f"{2:064x}")
    assert adopted.texts() == [{"alt": [f"picture {sample.number}"]} for sample in samples]
    assert adopted.manifest.summary["texts"] == {"alt": {"texts": 4, "unusable": 0}}
    assert rows[1]["detail"] == "HTTP Error 404: Not Found"
    assert adopted.images() == {sample.uid: sample.image for sample in (samples[0], samples[2])}
    assert adopted.manifest.ledger.dropped == {"http_404": 1, "timeout": 1}
    assert not [name for name in list_files(str(tmp_path / "lake")) if name.endswith(".tar")]
    assert tar.read_bytes() == before


def test_a_uid_that_the_shard_lacks_is_that_of_the_url_table(adopt, tmp_path):
    sample = Sample(1)
    write_ready(tmp_path, "00000", [sample])
    table = pq.read_table(tmp_path / "00000.parquet").drop_columns(["uid", "sha256"])
    pq.write_table(table, tmp_path / "00000.parquet")
    row = adopt(tmp_path).rows()[0]
    assert row["uid"] == uid_of(sample.url, "picture 1")
    assert row["sha256"] is None


def test_columns_are_read_by_the_names_of_the_recipe_or_of_img2dataset(adopt, tmp_path):
    """img2dataset calls the columns of URL and text `url` and `caption`, whatever they were called before."""
    write_ready(tmp_path, "00000", [Sample(1, extra={"rewrite": ["a", "b"], "score": 0.5})])
    adopted = adopt(
        tmp_path,
        caption_column="text",
        url_column="URL",
        caption_columns={"rewrite": "rewrite"},
        keep_columns=["score"],
    )
    row = adopted.rows()[0]
    assert adopted.texts() == [{"alt": ["picture 1"], "rewrite": ["a", "b"]}]
    assert row["url"] == "http://127.0.0.1/1.png"
    kept = f"{adopted.uri}/columns/{adopted.manifest.parts[0]}.parquet"
    assert pq.read_table(kept).to_pylist() == [{"uid": row["uid"], "score": 0.5}]


@pytest.mark.parametrize("name", ["00002.tar", "00002.parquet", "00002_stats.json"])
def test_a_file_that_a_shard_lacks_is_named(adopt, tmp_path, name):
    for number in (0, 2):
        write_ready(tmp_path, f"{number:05d}", [Sample(number)])
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"lack 1 files: {name}"):
        adopt(tmp_path)


def test_a_folder_without_shards_is_refused(adopt, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=r"found none; set acquire\.adopt"):
        adopt(tmp_path)


def test_a_missing_image_is_a_row_and_an_image_without_a_row_is_counted(adopt, tmp_path):
    samples = [Sample(number) for number in range(4)]
    write_tar(tmp_path / "00000.tar", [*samples[:3], Sample(9)])
    write_table(tmp_path, "00000", samples)
    adopted = adopt(tmp_path)
    assert adopted.reasons() == [None, None, None, "missing_image"]
    assert "000000003 in the tar" in adopted.rows()[3]["detail"]
    assert adopted.manifest.summary["problems"] == {
        "00000": {"images that no successful row names": 1}
    }


def test_too_many_missing_images_fail_the_stage(adopt, tmp_path):
    samples = [Sample(number) for number in range(10)]
    write_tar(tmp_path / "00000.tar", samples[:4])
    write_table(tmp_path, "00000", samples)
    with pytest.raises(DataError, match=r"6 of 10 rows.*60%.*0\.5 allows: 6 missing_image"):
        adopt(tmp_path, max_failed_share=0.5)


def test_a_row_that_the_counts_have_and_the_table_has_not_is_a_row_that_failed(adopt, tmp_path):
    """img2dataset loses samples without a word: its counts then say more than its table."""
    for number in range(3):
        write_ready(tmp_path, f"{number:05d}", [Sample(2 * number), Sample(2 * number + 1)])
    table = pq.read_table(tmp_path / "00001.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "00001.parquet")
    adopted = adopt(tmp_path, keep_columns=["width"])
    assert adopted.reasons() == [None, None, None, "missing_row", None, None]
    assert "'count': 2" in adopted.rows()[3]["detail"]
    assert adopted.manifest.ledger.model_dump(by_alias=True) == {
        "in": 6,
        "out": 5,
        "dropped": {"missing_row": 1},
    }
    kept = f"{adopted.uri}/columns/{adopted.manifest.parts[1]}.parquet"
    assert pq.read_table(kept)["width"].to_pylist() == [24, None]
    with pytest.raises(DataError, match=r"1 of 6 rows.*1 missing_row"):
        adopt(tmp_path, max_failed_share=0.1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not parquet", "cannot read the table"),
        ({"url": ["http://a/1"], "caption": ["x"]}, "has no column 'key'"),
    ],
)
def test_a_table_of_another_make_is_refused(adopt, tmp_path, content, words):
    write_ready(tmp_path, "00000", [Sample(0)])
    if isinstance(content, bytes):
        (tmp_path / "00000.parquet").write_bytes(content)
    else:
        pq.write_table(pa.table(content), tmp_path / "00000.parquet")
    with pytest.raises(DataError, match=words) as error:
        adopt(tmp_path)
    assert "00000.parquet" in str(error.value)


def test_one_shard_more_is_the_only_one_verified(adopt, tmp_path):
    for number in range(2):
        write_ready(tmp_path / "ready", f"{number:05d}", [Sample(number)])
    first = adopt(tmp_path / "ready")
    written = {
        key: read_manifest(part_uri(first.uri, key)).started_at for key in first.manifest.parts
    }
    write_ready(tmp_path / "ready", "00005", [Sample(5)])
    second = adopt(tmp_path / "ready")
    assert second.manifest.parts[:2] == first.manifest.parts
    assert second.manifest.summary["reused"] == 2
    assert written == {
        key: read_manifest(part_uri(second.uri, key)).started_at for key in first.manifest.parts
    }
    assert len(second.images()) == 3


def test_a_tar_that_was_changed_afterwards_is_named(adopt, tmp_path):
    tar = write_ready(tmp_path / "ready", "00000", [Sample(0)])
    write_ready(tmp_path / "ready", "00001", [Sample(1)])
    adopted = adopt(tmp_path / "ready")
    content = bytearray(tar.read_bytes())
    tar.write_bytes(content)  # the same content at another time is no change
    assert len(partition_folders(adopted.uri)) == 2
    content[1600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"00000\.tar was changed.*--only acquire --force"):
        partition_folders(adopted.uri)
    tar.unlink()
    with pytest.raises(IntegrityError, match=r"00000\.tar is gone"):
        partition_folders(adopted.uri)


def test_shards_that_were_moved_are_found_again_by_force(adopt, tmp_path):
    """Oracle: the keys, on which everything below rests, are the same; the parts name the new place."""
    sample = Sample(0)
    write_ready(tmp_path / "here", "00000", [sample])
    first = adopt(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(IntegrityError, match="is gone"):
        partition_folders(first.uri)
    second = adopt(tmp_path / "there", force=True)
    assert (second.uri, second.manifest.parts) == (first.uri, first.manifest.parts)
    assert second.images() == {sample.uid: sample.image}


def test_a_uid_that_comes_twice(adopt, tmp_path):
    write_ready(tmp_path / "ready", "00000", [Sample(0), Sample(1)])
    write_ready(tmp_path / "ready", "00001", [Sample(2), Sample(1), Sample(3)])
    with pytest.raises(DataError, match=r"1 rows.*0001 \(row 1 of 00001\).*keep_first"):
        adopt(tmp_path / "ready")
    adopted = adopt(tmp_path / "ready", on_duplicate_uid="keep_first")
    assert adopted.reasons() == [None, None, None, "duplicate_uid", None]
    assert len(adopted.images()) == 4
    assert adopted.manifest.ledger.dropped == {"duplicate_uid": 1}
    write_ready(tmp_path / "ready", "00002", [Sample(4)])
    again = adopt(tmp_path / "ready", on_duplicate_uid="keep_first")
    assert again.manifest.parts[:2] == adopted.manifest.parts
    assert again.manifest.summary["reused"] == 2


def test_pairs_that_the_recipe_refuses(adopt, tmp_path):
    """Oracle: the rows on the lists fail, others keep their part; without the lists the first parts count again."""
    elsewhere = {"url": "https://pictures.example.org/a.png"}
    write_ready(tmp_path / "ready", "00000", [Sample(0), Sample(1, extra=elsewhere), failed(2)])
    write_ready(tmp_path / "ready", "00001", [Sample(3)])
    before = adopt(tmp_path / "ready")
    refuse = {"hosts": ["example.org"], "uids": [f"{2:032x}"]}
    adopted = adopt(tmp_path / "ready", refuse=refuse)
    assert adopted.reasons() == [None, "refused", "http_404", None]
    assert adopted.manifest.parts[1] == before.manifest.parts[1]
    assert adopted.manifest.parts[0] != before.manifest.parts[0]
    assert adopt(tmp_path / "ready").manifest.parts == before.manifest.parts


def test_what_was_taken_down_at_the_root_stays_down(adopt, tmp_path):
    """Oracle: its row keeps the uid alone, kept columns too."""
    record = TakedownRecord(
        number=1,
        made_at="2026-11-21",
        uids=[f"{1:032x}"],
        url_hashes=[],
        hosts=[],
        found=[],
        is_finished=True,
    )
    write_bytes(f"{tmp_path}/lake/{TAKEDOWNS}/{record.name}", record.model_dump_json().encode())
    write_ready(
        tmp_path / "ready", "00000", [Sample(0, extra={"score": 1}), Sample(1, extra={"score": 2})]
    )
    adopted = adopt(tmp_path / "ready", keep_columns=["score"])
    row = adopted.rows()[1]
    kept = f"{adopted.uri}/columns/{adopted.manifest.parts[0]}.parquet"
    assert {name for name, value in row.items() if value} == {"uid", "status", "reason"}
    assert row["reason"] == "refused"
    assert adopted.texts() == [{"alt": ["picture 0"]}, {}]
    assert pq.read_table(kept)["score"].to_pylist() == [1, None]


def test_another_column_of_texts_verifies_no_shard_anew(adopt, tmp_path, monkeypatch):
    """Oracle: calls of what verifies a shard, and the bytes and times of the parts."""
    verified = []
    account_for = parts.account_for
    monkeypatch.setattr(
        parts,
        "account_for",
        lambda shard, *a, **k: verified.append(shard.name) or account_for(shard, *a, **k),
    )
    for number in range(2):
        samples = [
            Sample(2 * number + n, extra={"words": [f"word {2 * number + n}", "y" * 100_001]})
            for n in range(2)
        ]
        write_ready(tmp_path / "ready", f"{number:05d}", samples)
    first = adopt(tmp_path / "ready")
    assert verified == ["00000", "00001"]
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for part in first.manifest.parts
        for path in (tmp_path / "lake/acquire/parts" / part).iterdir()
    }
    more = adopt(tmp_path / "ready", caption_columns={"rewrite": "words"})
    other = adopt(tmp_path / "ready", caption_columns={"by another name": "words", "url": "url"})
    again = adopt(tmp_path / "ready", caption_columns={"rewrite": "words"}, max_failed_share=0.9)
    assert verified == ["00000", "00001"]
    assert first.manifest.parts == more.manifest.parts == other.manifest.parts
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert first.texts() == [{"alt": [f"picture {n}"]} for n in range(4)]
    assert more.texts() == [{"alt": [f"picture {n}"], "rewrite": [f"word {n}"]} for n in range(4)]
    assert more.unusable() == [{"rewrite": 1}] * 4
    assert more.manifest.summary["texts"]["rewrite"] == {"texts": 8, "unusable": 4}
    assert other.texts()[2]["by another name"] == ["word 2"]
    assert other.texts()[2]["url"] == ["http://127.0.0.1/2.png"]
    assert again.texts() == more.texts()
    assert more.images() == first.images()


def test_resharded_tars_without_tables(adopt, tmp_path):
    """DataComp's resharder names members UID-COPY and means a pair by each copy; a pair is one here."""
    samples = [(Sample(0), 0), (Sample(1), 0), (Sample(1), 1), (Sample(2), 0)]
    write_resharded(tmp_path / "ready", "00000000", samples)
    adopted = adopt(tmp_path / "ready", on_duplicate_uid="keep_first", keep_columns=["width"])
    assert adopted.reasons() == [None, None, "duplicate_uid", None]
    rows = adopted.rows()
    assert rows[0]["uid"] == f"{0:032x}"
    assert rows[0]["url"] == "http://127.0.0.1/0.png"
    assert rows[0]["original_width"] == 48
    assert adopted.images() == {sample.uid: sample.image for sample, copy in samples if not copy}
    kept = f"{adopted.uri}/columns/{adopted.manifest.parts[0]}.parquet"
    assert pq.read_table(kept)["width"].to_pylist() == [24, 24, 24, 24]


def test_json_of_a_stranger_makes_a_row_whatever_it_holds(adopt, tmp_path):
    tmp_path.joinpath("ready").mkdir()
    image = Sample(0).image
    records = [
        b"\xff\xfe not json",
        b"[1, 2]",
        b'{"uid": 7, "url": {"a": 1}, "caption": ["x", 3]}',
        b"[" * 100_000,
        b'{"url": "http://a/x", "caption": "a caption", "original_width": 1e300}',
    ]
    with tarfile.open(tmp_path / "ready/00000.tar", "w") as tar:
        for number, record in enumerate(records):
            add(tar, f"{number:09d}.png", image)
            add(tar, f"{number:09d}.json", record)
        add(tar, f"{0xABC:032x}-0.png", image)  # no JSON at all, but a name that is a uid
        add(tar, f"{0xABC:032x}-0.txt", b"from the text")
    adopted = adopt(tmp_path / "ready")
    rows = adopted.rows()
    assert adopted.reasons() == [None] * 6
    assert len({row["uid"] for row in rows}) == 6
    assert rows[4]["uid"] == uid_of("http://a/x", "a caption")
    assert rows[5]["uid"] == f"{0xABC:032x}"
    texts = [{}, {}, {"alt": ["x"]}, {}, {"alt": ["a caption"]}, {"alt": ["from the text"]}]
    assert adopted.texts() == texts
    assert adopted.unusable() == [{}] * 6
    problems = adopted.manifest.summary["problems"]["00000"]
    assert problems["samples without readable JSON"] == 4
    assert problems["values of 'uid' that are no text"] == 1
    names = adopted.manifest.summary["problem_names"]["00000"]["samples without readable JSON"]
    assert names == ["000000000", "000000001", "000000003", f"{0xABC:032x}-0"]


def test_every_reason_of_adoption_is_known():
    assert {"missing_image", "not_an_image", "undecodable", "too_large", "duplicate_uid"} <= {
        *REASONS
    }


@pytest.mark.s3
def test_shards_in_a_bucket(adopt, tmp_path, s3_bucket):
    """Oracle: what the same shards give from a folder; a changed object is named, one more is the only one done."""
    samples = {"00000": [Sample(0), failed(1)], "00001": [Sample(2)]}
    for name, content in samples.items():
        write_ready(tmp_path / "ready", name, content)
    for path in sorted((tmp_path / "ready").iterdir()):
        upload(path, f"{s3_bucket}/pool/{path.name}")
    root = f"{s3_bucket}/lake"
    adopted = adopt(f"{s3_bucket}/pool", root=root)
    here = adopt(tmp_path / "ready")
    assert adopted.rows() == here.rows()
    assert adopted.images() == here.images()
    assert not [name for name in list_files(root) if name.endswith(".tar")]
    write_ready(tmp_path / "more", "00002", [Sample(3)])
    for path in (tmp_path / "more").iterdir():
        upload(path, f"{s3_bucket}/pool/{path.name}")
    more = adopt(f"{s3_bucket}/pool", root=root)
    assert more.manifest.summary["reused"] == 2
    assert is_committed(part_uri(more.uri, more.manifest.parts[2]))
    write_bytes(f"{s3_bucket}/pool/00001.tar", b"another content")
    with pytest.raises(IntegrityError, match=r"pool/00001\.tar was changed"):
        partition_folders(more.uri)


@pytest.mark.parametrize("end", [".tar", ".parquet", "_stats.json"])
def test_other_bytes_of_the_same_size_are_other_shards(tmp_path, end):
    """Oracle: one bit, in a caption beside the pictures, in the table or in the counts."""
    write_ready(tmp_path / "ready", "00000", [Sample(0)])
    before = fingerprint_shards(str(tmp_path / "ready"))
    path = tmp_path / "ready" / f"00000{end}"
    content, times = path.read_bytes(), path.stat()
    at = len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_shards(str(tmp_path / "ready")) != before
    path.write_bytes(content)
    assert fingerprint_shards(str(tmp_path / "ready")) == before
