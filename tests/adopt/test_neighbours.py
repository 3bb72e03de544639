"""One bad name, null or byte costs what it stands in: oracles are the rows that must come of hand-made shards."""

import io
import json
import logging
import tarfile

import open_clip_train.data as trainer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.ready import Sample, add, failed, write_ready, write_resharded

from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import uid_of

GOOD = Sample(0).image
TAKEN = "captions of .txt and table or JSON that differ; the .txt is taken"
UNUSABLE = "captions that cannot be used: .txt"


def two_and(folder, name="00001", samples=None):
    """Write two whole shards and, between them, one to be spoilt."""
    write_ready(folder, "00000", [Sample(0), Sample(1)])
    write_ready(folder, name, samples or [Sample(2), Sample(3)])
    write_ready(folder, "00002", [Sample(4), Sample(5)])


def rewrite(path, change):
    """Write a table again with its records changed."""
    records = pq.read_table(path).to_pylist()
    change(records)
    pq.write_table(pa.Table.from_pylist(records), path)


def reasons_of(adopted, shard):
    return [row["reason"] for row in adopted.rows()[2 * shard : 2 * shard + 2]]


@pytest.mark.parametrize(
    "column", ["key", "uid", "url", "caption", "status", "sha256", "width", "exif"]
)
def test_a_null_in_a_table_costs_at_most_its_row(adopt, tmp_path, column):
    two_and(tmp_path / "in")
    rewrite(tmp_path / "in/00001.parquet", lambda records: records[0].update({column: None}))
    adopted = adopt(tmp_path / "in")
    lost = {"key": "missing_image", "status": "other_download"}.get(column)
    assert adopted.reasons() == [None, None, lost, None, None, None]
    row = adopted.rows()[2]
    if column == "uid":
        assert row["uid"] == uid_of(Sample(2).url, "picture 2")
    if column == "url":
        assert (row["uid"], row["url"]) == (Sample(2).uid, None)
    assert adopted.texts() == [{"alt": [f"picture {n}"]} for n in range(6)]


def test_nulls_everywhere_give_rows_of_their_own(adopt, tmp_path):
    """Two pairs without uid, address and caption are two pairs."""
    two_and(tmp_path / "in")

    def empty(records):
        for record in records:
            record.update(uid=None, url=None, caption=None)

    rewrite(tmp_path / "in/00001.parquet", empty)
    adopted = adopt(tmp_path / "in")
    assert adopted.reasons() == [None] * 6
    assert len({row["uid"] for row in adopted.rows()}) == 6


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("uid", "not hex"),
        ("uid", "F" * 32),
        ("sha256", "not hex"),
        ("original_width", -1),
        ("caption", ""),
        ("caption", "\x00\u2028"),
        ("url", "x" * 10_000),
        ("key", "../../etc"),
        ("key", "000000003"),
    ],
)
def test_an_odd_value_in_a_table_costs_at_most_its_row(adopt, tmp_path, column, value):
    two_and(tmp_path / "in")
    rewrite(tmp_path / "in/00001.parquet", lambda records: records[0].update({column: value}))
    reasons = adopt(tmp_path / "in").reasons()
    assert reasons[:2] + reasons[3:] == [None] * 5
    assert reasons[2] in {None, "missing_image"}


@pytest.mark.parametrize("column", ["caption", "url", "key", "status", "error_message"])
def test_a_byte_that_is_not_utf_8_costs_at_most_its_row(adopt, tmp_path, column):
    two_and(tmp_path / "in")
    path = tmp_path / "in/00001.parquet"
    table = pq.read_table(path).drop_columns([column])
    values = pa.array([b"caf\xe9", b"000000003"], pa.binary()).view(pa.string())
    pq.write_table(table.append_column(column, values), path)
    adopted = adopt(tmp_path / "in")
    assert reasons_of(adopted, 0) == reasons_of(adopted, 2) == [None, None]
    expected = {"key": "missing_image", "status": "other_download"}.get(column)
    assert adopted.rows()[2]["reason"] == expected
    assert adopted.texts() == [{"alt": [f"picture {n}"]} for n in range(6)]
    assert adopted.unusable() == [{}] * 6


@pytest.mark.parametrize(
    ("spoil", "reason", "count"),
    [
        (
            lambda folder: (folder / "00001.parquet").write_bytes(b"not parquet"),
            "unreadable_shard",
            2,
        ),
        (lambda folder: (folder / "00001.parquet").write_bytes(b""), "unreadable_shard", 2),
        (lambda folder: cut(folder / "00001.parquet", -300), "unreadable_shard", 2),
        (lambda folder: (folder / "00001.tar").write_bytes(b""), "missing_image", 2),
        (lambda folder: (folder / "00001.tar").write_bytes(b"no tar" * 999), "missing_image", 2),
        (lambda folder: cut(folder / "00001.tar", 700), "missing_image", 2),
        (lambda folder: compress(folder / "00001.tar"), "missing_image", 2),
        (lambda folder: rename(folder / "00001.parquet", "key"), "unreadable_shard", 2),
        (lambda folder: rename(folder / "00001.parquet", "status"), "unreadable_shard", 2),
    ],
)
def test_a_shard_that_cannot_be_read_costs_its_rows_and_no_others(
    adopt, tmp_path, spoil, reason, count
):
    two_and(tmp_path / "in")
    spoil(tmp_path / "in")
    adopted = adopt(tmp_path / "in")
    assert adopted.manifest.ledger.model_dump(by_alias=True) == {
        "in": 4 + count,
        "out": 4,
        "dropped": {reason: count},
    }
    assert list(adopted.manifest.summary["problems"]) == ["00001"]
    assert len(adopted.images()) == 4


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def compress(path):
    content = path.read_bytes()
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "000000002.png", content)


def rename(path, column):
    table = pq.read_table(path)
    pq.write_table(
        table.rename_columns([f"{n}_" if n == column else n for n in table.column_names]), path
    )


@pytest.mark.parametrize(
    "counts",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"count": null, "successes": 2}',
        b'{"count": "2", "successes": 2}',
        b'{"count": 2.5, "successes": 2}',
        b'{"count": -1, "successes": 2}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_counts_that_cannot_be_read_cost_nothing(adopt, tmp_path, counts):
    two_and(tmp_path / "in")
    (tmp_path / "in/00001_stats.json").write_bytes(counts)
    adopted = adopt(tmp_path / "in")
    assert adopted.reasons() == [None] * 6
    assert adopted.manifest.summary["problems"] == {"00001": {"the counts cannot be read": 1}}


@pytest.mark.parametrize(
    ("said", "lacking"),
    [((3, 3), 1), ((3, 2), 1), ((2, 1), 0), ((1, 1), 0), ((10**12, 2), 1), ((4, 4), 2)],
)
def test_counts_that_say_something_else(adopt, tmp_path, said, lacking):
    two_and(tmp_path / "in")
    counts = dict(zip(("count", "successes"), said, strict=True))
    (tmp_path / "in/00001_stats.json").write_text(json.dumps(counts))
    adopted = adopt(tmp_path / "in")
    assert adopted.manifest.ledger.dropped == ({"missing_row": lacking} if lacking else {})
    assert adopted.manifest.ledger.out == 6
    assert "its counts say" in next(iter(adopted.manifest.summary["problems"]["00001"]))


def member(name, content=GOOD, **fields):
    return lambda tar: add(tar, name, content, **fields)


def raw_name(old, new):
    """Spoil a name in the header, as a tar of another tool would have it."""

    def spoil(tar):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as other:
            add(other, old, GOOD)
        block = bytearray(buffer.getvalue()[: 512 + -(-len(GOOD) // 512) * 512])
        block[: len(old)] = new
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        tar.fileobj.write(block)
        tar.offset += len(block)

    return spoil


BAD_MEMBERS = [
    raw_name("xxxx.png", b"\xff\xfe\xe9x.png"),
    raw_name("xxxx.png", b"\0xxx.png"),
    member("/etc/x.png"),
    member("../x.png"),
    member("a/../../x.png"),
    member("y" * 5_000 + ".png"),
    member("x\0y.png"),
    member("z\udcff.png"),
    member("x.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("x.png", b"", type=tarfile.LNKTYPE, linkname="000000002.png"),
    member("x.png", b"", type=tarfile.CHRTYPE),
    member("x.png", b"", type=tarfile.FIFOTYPE),
    member(".hidden.png"),
    member("._000000002.png"),
    member("no_suffix"),
    member("README.md", b"x"),
    member("000000002.seg.png"),
    member("000000002.webp"),
    member("x.gif"),
    member("x.npy", b"x"),
    member(""),
    member("\u2028.png"),
    member("folder/", b"", type=tarfile.DIRTYPE),
    member("x.jpg", b"", pax_headers={"mtime": "never", "size": "0"}),
]


@pytest.mark.parametrize("number", range(len(BAD_MEMBERS)))
def test_a_bad_member_costs_nothing_else(adopt, tmp_path, number):
    """Oracle: all good pairs are there with their own bytes, in this shard and in the others."""
    samples, has_table = [Sample(place) for place in range(6)], number % 3 == 0
    for shard in range(3):
        folder, name, mine = tmp_path / "in", f"{shard:05d}", samples[2 * shard : 2 * shard + 2]
        if has_table:
            write_ready(folder, name, mine)
        else:
            write_resharded(folder, name, [(sample, 0) for sample in mine])
            (folder / f"{name}_stats.json").unlink()
    good = tmp_path / "in/00001.tar"
    whole = good.read_bytes()
    with tarfile.open(good, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        BAD_MEMBERS[number](tar)
        with tarfile.open(fileobj=io.BytesIO(whole)) as old:
            for info in old:
                tar.addfile(info, old.extractfile(info))
    adopted = adopt(tmp_path / "in")
    found = adopted.images()
    assert {sample.uid: sample.image for sample in samples} == {
        uid: found[uid] for uid in found.keys() & {sample.uid for sample in samples}
    }
    adopted.manifest.ledger.check("acquire")
    problems = adopted.manifest.summary["problems"].get("00001", {})
    extra = len(adopted.rows()) - 6
    is_folder = number == len(BAD_MEMBERS) - 2
    assert problems or extra or is_folder


@pytest.mark.parametrize(
    ("text", "caption", "problem"),
    [
        (b"from the text", ["from the text"], TAKEN),
        (b" from the text\r\n", ["from the text"], TAKEN),
        ("caf\u00e9 \u2028 \U0001f600".encode(), ["caf\u00e9 \u2028 \U0001f600"], TAKEN),
        (b"", None, TAKEN),
        (b" \n", None, TAKEN),
        (b"caf\xe9", None, f"{UNUSABLE} that is not UTF-8"),
        (b"x" * (1 << 20) + b"x", None, f"{UNUSABLE} of more than 1048576 bytes"),
        (b"x" * 100_001, None, f"{UNUSABLE} of more than 100000 characters"),
        (b"x" * 100_000, ["x" * 100_000], TAKEN),
        (None, ["picture 0"], None),
    ],
)
@pytest.mark.parametrize("has_table", [True, False])
def test_the_caption_is_that_of_the_txt(adopt, tmp_path, text, caption, problem, has_table):
    """Of a tar whose .txt and JSON differ, open_clip's trainer takes the .txt; a broken one costs itself alone."""
    samples = [Sample(number, extra={"words": [f"word {number}"]}) for number in range(2)]
    (tmp_path / "in").mkdir()
    if has_table:
        write_ready(tmp_path / "in", "00000", samples)
    with tarfile.open(tmp_path / "in/00000.tar", "w") as tar:
        for sample in samples:
            add(tar, f"{sample.key}.png", sample.image)
            add(tar, f"{sample.key}.json", json.dumps(sample.row()).encode())
            if text is not None and sample.number == 0:
                add(tar, f"{sample.key}.txt", text)
    more = {"caption_columns": {"rewrite": "words"}}
    adopted = adopt(tmp_path / "in", root=str(tmp_path / "a"), **more)
    is_lost = (problem or "").startswith(UNUSABLE)
    alt = {} if caption is None else {"alt": caption}
    assert adopted.texts() == [
        alt | {"rewrite": ["word 0"]},
        {"alt": ["picture 1"], "rewrite": ["word 1"]},
    ]
    assert adopted.unusable() == [{"alt": 1} if is_lost else {}, {}]
    assert adopted.reasons() == [None, None]
    assert [row["uid"] for row in adopted.rows()] == [sample.uid for sample in samples]
    assert adopted.images() == {sample.uid: sample.image for sample in samples}
    assert adopted.manifest.summary["texts"]["alt"] == {
        "texts": 1 + (caption is not None) + is_lost,
        "unusable": int(is_lost),
    }
    problems = adopted.manifest.summary["problems"].get("00000", {})
    assert {words: count for words, count in problems.items() if "no .txt" not in words} == (
        {problem: 1} if problem else {}
    )
    told = adopt(tmp_path / "in", root=str(tmp_path / "b"), adopted_caption="column", **more)
    assert told.texts()[0] == {"alt": ["picture 0"], "rewrite": ["word 0"]}
    assert (told.reasons(), told.unusable()) == ([None, None], [{}, {}])


def test_pictures_and_captions_are_those_of_open_clips_trainer(adopt, tmp_path):
    """Oracle: the trainer's own grouping and choice over the same tar."""
    members = [
        ("000.png", Sample(1).image), ("000.jpg", Sample(2, suffix="jpg").image), ("000.txt", b"zero"),
        ("001.webp", Sample(3).image), ("001.PNG", Sample(4).image), ("001.TXT", b"one"),
        ("002.x.png", GOOD), ("002.jpeg", Sample(5).image), ("002.txt", b"two"),
        ("d.1/003.png", Sample(6).image), ("d.1/003.txt", b"three"),
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/00000.tar", "w") as tar:
        for name, content in members:
            add(tar, name, content)
    files = ({"fname": name, "data": content, "__url__": ""} for name, content in members)
    expected = {}
    for sample in trainer.group_by_keys_nothrow(files):
        assert trainer.filter_no_caption_or_no_image(sample)
        image = next(sample[name] for name in ("jpg", "png", "jpeg", "webp") if name in sample)
        expected[sample["txt"].decode()] = image
    adopted = adopt(tmp_path / "in")
    images = adopted.images()
    assert {
        texts["alt"][0]: images[row["uid"]]
        for row, texts in zip(adopted.rows(), adopted.texts(), strict=True)
    } == expected


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("00000.tar.gz", "compressed"),
        ("00001.tgz", "compressed"),
        ("00003.tar.part", "not finished"),
        (".00000.tar", "hidden"),
        ("._00000.tar", "hidden"),
        ("README.md", "not NAME.tar"),
        ("metadata.parquet", "not NAME.tar"),
        ("merged_stats.json", "not NAME.tar"),
        ("00009.TAR", "not NAME.tar"),
        ("more/00000.tar", "in a folder below"),
        ("more/even/00001.tar", "in a folder below"),
    ],
)
def test_every_file_that_is_ignored_is_named(adopt, tmp_path, caplog, name, why):
    write_resharded(tmp_path / "in", "00000", [(Sample(0), 0)])
    (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        adopted = adopt(tmp_path / "in")
    assert len(adopted.images()) == 1
    ((reason, found),) = adopted.manifest.summary["ignored_files"].items()
    assert reason.startswith(why)
    assert found == {"count": 1, "names": name}
    assert name in caplog.text


def test_many_ignored_files_and_members_are_counted_and_some_are_named(adopt, tmp_path):
    write_ready(tmp_path / "in", "00000", [Sample(0)])
    with tarfile.open(tmp_path / "in/00000.tar", "a") as tar:
        for number in range(500):
            add(tar, f"{number}.kind{number}", b"x")
    for number in range(50):
        (tmp_path / f"in/note{number:02d}.md").write_text("x")
    summary = adopt(tmp_path / "in").manifest.summary
    ((_, ignored),) = summary["ignored_files"].items()
    assert ignored["count"] == 50
    assert ignored["names"].endswith("note04.md and 45 more")
    problems = summary["problems"]["00000"]
    assert sum(problems.values()) == 500
    assert len(problems) < 50
    assert summary["problems_of_all"]
    assert "and 455 more" in summary["problem_names"]["00000"]["further problems"]


@pytest.mark.parametrize(
    "fill",
    [
        {},
        {"0.txt": b"only a text", "0.json": b"{}"},
        {"0.gif": GOOD},
        {"0.png": b""},
        {"0.png": b"<html>"},
        {"0.png": GOOD[:20]},
        {"a.b.png": GOOD},
        {"README": b"x"},
    ],
)
def test_shards_without_a_readable_image_are_no_stage(adopt, tmp_path, fill):
    (tmp_path / "in").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / f"in/{shard:05d}.tar", "w") as tar:
            for name, content in fill.items():
                add(tar, name, content)
    with pytest.raises(DataError, match="no image can be read in the shards in"):
        adopt(tmp_path / "in", max_failed_share=1, on_duplicate_uid="keep_first")
    assert not list((tmp_path / "lake/acquire").glob("*/manifest.json"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no tar at all" * 100),
        lambda path: cut(path, 600),
        compress,
    ],
)
def test_tars_of_nothing_but_damage_are_no_stage(adopt, tmp_path, spoil):
    tar = write_resharded(tmp_path / "in", "00000", [(Sample(0), 0)])
    spoil(tar)
    with pytest.raises(DataError, match=r"no image can be read.*1 missing_row"):
        adopt(tmp_path / "in", max_failed_share=1)
    (tmp_path / "in/00000_stats.json").unlink()
    with pytest.raises(
        DataError, match=r"no image can be read.*1 unreadable_shard.*cut off or damaged"
    ):
        adopt(tmp_path / "in", max_failed_share=1)


def test_a_shard_of_nothing_but_failures_is_part_of_a_stage(adopt, tmp_path):
    two_and(tmp_path / "in", samples=[failed(2), failed(3)])
    assert adopt(tmp_path / "in").manifest.ledger.dropped == {"http_404": 2}
    for name in ("00000", "00002"):
        for path in (tmp_path / "in").glob(f"{name}*"):
            path.unlink()
    with pytest.raises(DataError, match=r"no image can be read.*2 http_404"):
        adopt(tmp_path / "in", max_failed_share=1)


def test_folders_below_are_named_where_there_is_no_shard(adopt, tmp_path):
    write_ready(tmp_path / "in/a", "00000", [Sample(0)])
    with pytest.raises(DataError, match=r"found none \(there are tars in a\); set acquire\.adopt"):
        adopt(tmp_path / "in")
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz/00000.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"00000\.tar\.gz would have to be unpacked"):
        adopt(tmp_path / "gz")


def test_more_than_twenty_bad_shards_do_not_end_the_others(adopt, tmp_path):
    for number in range(30):
        write_ready(tmp_path / "in", f"{number:05d}", [Sample(number)])
        if number < 25:
            (tmp_path / f"in/{number:05d}.parquet").write_bytes(b"broken")
    adopted = adopt(tmp_path / "in", max_failed_share=0.9)
    assert adopted.manifest.ledger.dropped == {"unreadable_shard": 25}
    assert adopted.manifest.ledger.out == 5
    assert adopted.manifest.summary["shards_with_problems"] == 25
    assert len(adopted.manifest.summary["problems"]) == 20
