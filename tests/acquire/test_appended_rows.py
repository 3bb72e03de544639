"""Oracle: the partitions of the run before, as the root lists them, and the keys of rows cut by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.committed import vouch_for
from made.tables import committed_rows, plan_table, planned_rows, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.acquired.listing import known_slices
from neuclip.acquired.refusals import Refusals

CUT = 4


def rows(first: int, last: int, word: str = "pair", told: str = "pair") -> list[dict]:
    """Rows that are failed before anything is fetched, so that a run of them commits real partitions at once."""
    return [
        {"uid": uid(n), "url": f"ftp://a/{word}/{n}", "caption": f"{told} {n}"}
        for n in range(first, last)
    ]


def config_of(table, **settings) -> AcquireConfig:
    return AcquireConfig(table=str(table), partition_rows=CUT, max_failed_share=1, **settings)


def cuts(manifest, root: Path) -> list[tuple[str, int, int]]:
    listed = pq.read_table(root / "acquire" / manifest.key / "partitions.parquet").to_pylist()
    assert [row["part"] for row in listed] == manifest.parts
    return [(row["file"], row["first_row"], row["rows"]) for row in listed]


@pytest.fixture
def first(acquire, tmp_path):
    """Ten rows in partitions of 4, 4 and 2."""
    table = write_table(tmp_path / "t.parquet", rows(0, 10))
    manifest = acquire(config_of(table), tmp_path / "root")
    assert cuts(manifest, tmp_path / "root") == [
        ("t.parquet", 0, 4),
        ("t.parquet", 4, 4),
        ("t.parquet", 8, 2),
    ]
    return manifest


def again(acquire, tmp_path, table_rows, **settings):
    table = write_table(tmp_path / "t.parquet", table_rows)
    return acquire(config_of(table, **settings), tmp_path / "root")


def test_rows_appended_to_the_file_are_partitions_of_their_own(acquire, first, tmp_path):
    """The last partition was not full: it stays as it is. A second append leaves the first alone too."""
    second = again(acquire, tmp_path, rows(0, 15))
    assert second.parts[:3] == first.parts
    assert cuts(second, tmp_path / "root")[3:] == [("t.parquet", 10, 4), ("t.parquet", 14, 1)]
    third = again(acquire, tmp_path, rows(0, 17))
    assert third.parts[:5] == second.parts
    assert cuts(third, tmp_path / "root")[5:] == [("t.parquet", 15, 2)]
    assert (third.summary["partitions"], third.summary["reused"]) == (6, 5)
    assert third.ledger.entered == 17


def test_changed_rows_in_the_middle_change_their_partition_alone(acquire, first, tmp_path):
    changed = [*rows(0, 5), *rows(5, 6, "another"), *rows(6, 10)]
    second = again(acquire, tmp_path, changed)
    assert [key in first.parts for key in second.parts] == [True, False, True]
    assert cuts(second, tmp_path / "root") == cuts(first, tmp_path / "root")


def test_changed_texts_change_no_partition_and_the_texts_of_one_alone(acquire, first, tmp_path):
    changed = [*rows(0, 5), *rows(5, 6, told="another"), *rows(6, 10)]
    second = again(acquire, tmp_path, changed)
    assert second.parts == first.parts
    before, after = (
        pq.read_table(tmp_path / "root/acquire" / manifest.key / "partitions.parquet")[
            "texts"
        ].to_pylist()
        for manifest in (first, second)
    )
    assert [key in before for key in after] == [True, False, True]
    told = committed_rows(str(tmp_path / "root" / "acquire" / second.key))
    assert [row["captions"]["alt"] for row in told] == [[row["caption"]] for row in changed]


def test_rows_put_before_others_or_taken_out_leave_the_rest_alone(acquire, first, tmp_path):
    """A partition is found by what it holds, not by where it stood."""
    second = again(acquire, tmp_path, [*rows(100, 103), *rows(0, 10)])
    assert second.parts[1:] == first.parts
    third = again(acquire, tmp_path, [*rows(4, 10), *rows(200, 201)])
    assert third.parts[:2] == first.parts[1:]
    assert cuts(third, tmp_path / "root")[2] == ("t.parquet", 6, 1)


def test_another_file_and_another_order_of_files(acquire, first, tmp_path):
    tables = tmp_path / "tables"
    write_table(tables / "b.parquet", rows(0, 10))
    write_table(tables / "a.parquet", rows(50, 56))
    second = acquire(config_of(tables), tmp_path / "root")
    assert second.parts[2:] == first.parts
    assert second.ledger.entered == 16


def test_other_settings_find_nothing_known(acquire, first, tmp_path):
    second = again(acquire, tmp_path, rows(0, 10), image_size=99)
    assert not set(second.parts) & set(first.parts)


def test_a_larger_partition_size_fetches_nothing_again(acquire, first, tmp_path):
    table = write_table(tmp_path / "t.parquet", rows(0, 30))
    config = AcquireConfig(table=table, partition_rows=100, max_failed_share=1)
    second = acquire(config, tmp_path / "root")
    assert second.parts[:3] == first.parts
    assert cuts(second, tmp_path / "root")[3:] == [("t.parquet", 10, 20)]


def test_repeated_uids_do_not_hide_what_is_known(acquire, tmp_path):
    """Oracle: with keep_first the row of the first place counts, wherever the other stands."""
    twice = [*rows(0, 6), *rows(2, 3, "repeated"), *rows(6, 9)]
    one = again(acquire, tmp_path, twice, on_duplicate_uid="keep_first")
    two = again(
        acquire, tmp_path, [*twice, *rows(9, 12), *rows(0, 1)], on_duplicate_uid="keep_first"
    )
    assert two.parts[:3] == one.parts
    assert one.ledger.dropped == {"bad_scheme": 9, "duplicate_uid": 1}
    assert two.ledger.dropped == {"bad_scheme": 12, "duplicate_uid": 2}


def test_a_root_without_a_listing_of_first_uids_is_cut_by_size(acquire, first, tmp_path):
    """A root of an earlier version: its listing has fewer columns."""
    path = tmp_path / "root" / "acquire" / first.key / "partitions.parquet"
    pq.write_table(pq.read_table(path).select(["part", "file", "first_row", "rows", "out"]), path)
    vouch_for(path, path.parent)
    assert known_slices(str(tmp_path / "root" / "acquire")) == {}
    second = again(acquire, tmp_path, rows(0, 15))
    assert second.parts[:2] == first.parts[:2]
    assert second.parts[2] != first.parts[2]


def test_what_was_taken_down_changes_no_key_and_is_not_planned(tmp_path):
    table = write_table(
        tmp_path / "t.parquet",
        [
            {"uid": uid(n), "url": f"http://H{n}.example.org/a", "caption": "c", "k": n}
            for n in range(4)
        ],
    )
    config = AcquireConfig(table=table, partition_rows=2, keep_columns=["k"])
    gone = Refusals.of([uid(0)], ["https://h1.EXAMPLE.org:443/a#top"], ["h2.example.org"])
    plain = plan_table(config, tmp_path / "plain")
    refusing = plan_table(config, tmp_path / "refusing", taken_down=gone)
    assert [part.key for part in refusing] == [part.key for part in plain]
    found = planned_rows(refusing)
    assert [row["reason"] for row in found] == ["refused", "refused", "refused", None]
    assert [row["url"] for row in found[:3]] == [None] * 3
    assert [row["captions"] for row in found] == [{}, {}, {}, {"alt": ["c"]}]
    assert [part.texts_key for part in refusing] == [part.texts_key for part in plain]
    assert [part.num_to_fetch for part in refusing] == [0, 1]
    kept = pa.concat_tables(pq.read_table(part.columns_path) for part in refusing[1:])
    assert kept["k"].to_pylist() == [None, 3]


@pytest.mark.parametrize(
    ("host", "url", "is_refused"),
    [
        ("example.org", "http://example.org/a", True),
        ("example.org", "http://IMG.example.org:8080/a", True),
        ("example.org", "http://notexample.org/a", False),
        ("example.org", "http://example.org.evil/a", False),
        ("example.org.", "http://example.org/a", True),
        ("example.org", "http://[broken/a", False),
        ("example.org", "http://a:99999/example.org", False),
    ],
)
def test_a_host_stands_for_the_hosts_below_it(host, url, is_refused):
    assert Refusals.of([], [], [host]).names_pair(uid(1), url) is is_refused


def test_a_reading_of_the_root_reads_committed_stages_alone(acquire, first, tmp_path):
    (tmp_path / "root" / "acquire" / "unfinished").mkdir()
    known = known_slices(str(tmp_path / "root" / "acquire"))
    found = sorted((cut.rows, cut.key) for cuts in known.values() for cut in cuts)
    assert [key for _, key in found] == sorted(
        first.parts, key=lambda key: (read_rows(first, key), key)
    )


def read_rows(manifest, key):
    return dict(zip(manifest.parts, (4, 4, 2), strict=True))[key]
