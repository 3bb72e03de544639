"""Oracle: tables written by hand, and the rows or the error each must give."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.tables import plan_table, planned_rows, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import uid_of
from neuclip.table.config import TABLE_SUFFIXES
from neuclip.table.files import read_rows

ROWS = [
    {"uid": uid(10), "url": "http://a/1", "caption": "one"},
    {"uid": uid(11), "url": "HTTPS://a/2", "caption": '"two", with quotes'},
    {"uid": uid(12), "url": "http://a/3", "caption": ""},
]


def planned(tmp_path, table, **settings):
    config = AcquireConfig(table=str(table), **settings)
    return plan_table(config, tmp_path / "plan")


def write_csv(path):
    quoted = [['"' + text.replace('"', '""') + '"' for text in row.values()] for row in ROWS]
    lines = [",".join(ROWS[0]), *(",".join(row) for row in quoted)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tsv(path):
    lines = ["\t".join(row) for row in [ROWS[0], *(row.values() for row in ROWS)]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_all_formats_give_the_same_rows(tmp_path):
    write_table(tmp_path / "t.parquet", ROWS)
    write_csv(tmp_path / "t.csv")
    write_tsv(tmp_path / "t.tsv")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    (tmp_path / "t.ndjson").write_bytes((tmp_path / "t.jsonl").read_bytes())
    for name in ("csv", "tsv", "jsonl", "ndjson"):
        packed = gzip.compress((tmp_path / f"t.{name}").read_bytes())
        (tmp_path / f"t.{name}.gz").write_bytes(packed)
    found = {
        suffix: list(read_rows(str(tmp_path / f"t.{suffix}"), AcquireConfig(table="t")))
        for suffix in (suffix.removeprefix(".") for suffix in TABLE_SUFFIXES)
    }
    assert [(row.uid, row.url) for row in found["csv"]] == [(r["uid"], r["url"]) for r in ROWS]
    assert [row.captions for row in found["csv"]] == [
        {"alt": ["one"]},
        {"alt": [ROWS[1]["caption"]]},
        {},
    ]
    assert all(row.reason is None for row in found["csv"])
    assert len(found) == 9
    assert all(rows == found["csv"] for rows in found.values())


def test_without_a_uid_column_uids_are_derived(tmp_path):
    table = write_table(tmp_path / "t.parquet", [{"url": "http://a/1", "caption": "one"}])
    (row,) = read_rows(table, AcquireConfig(table=table))
    assert row.uid == uid_of("http://a/1", "one")


def test_partitions_are_named_by_what_they_hold(tmp_path):
    """Oracle: what may change a download changes the key; what cannot, does not."""
    table = write_table(tmp_path / "t.parquet", ROWS)
    renamed = [{"id": r["uid"], "link": r["url"], "text": r["caption"]} for r in ROWS]
    other = write_table(tmp_path / "other.parquet", renamed)
    columns = {"uid_column": "id", "url_column": "link", "caption_column": "text"}
    keys = [part.key for part in planned(tmp_path, table, partition_rows=2)]
    assert len(set(keys)) == 2
    same = [
        planned(tmp_path, other, partition_rows=2, **columns),
        planned(tmp_path, table, partition_rows=2, processes=7, max_failed_share=0.1),
    ]
    assert all([part.key for part in parts] == keys for parts in same)
    bigger = planned(tmp_path, table, partition_rows=2, image_size=99)
    assert not set(keys) & {part.key for part in bigger}
    changed = write_table(tmp_path / "t.parquet", [*ROWS[:2], {**ROWS[2], "url": "http://a/4"}])
    moved = [part.key for part in planned(tmp_path, changed, partition_rows=2)]
    assert moved[0] == keys[0]
    assert moved[1] != keys[1]


def test_texts_name_their_own_parts_and_no_partition(tmp_path):
    """Oracle: the texts of which rows differ."""
    words = [{**row, "long": [f"long {n}", "longer"]} for n, row in enumerate(ROWS)]
    variants = {
        "plain": (ROWS, {}),
        "another caption": ([*ROWS[:2], {**ROWS[2], "caption": "three"}], {}),
        "one more column": (words, {"caption_columns": {"words": "long"}}),
        "a column that is not asked for": (words, {}),
        "by another name": (words, {"caption_columns": {"rewrite": "long"}}),
        "lost": ([{**ROWS[0], "caption": "x" * 100_001}, *ROWS[1:]], {}),
    }
    found = {
        name: planned(
            tmp_path, write_table(tmp_path / "t.parquet", rows), partition_rows=2, **settings
        )
        for name, (rows, settings) in variants.items()
    }
    assert len({tuple(part.key for part in parts) for parts in found.values()}) == 1
    texts = {name: [part.texts_key for part in parts] for name, parts in found.items()}
    plain = texts.pop("plain")
    assert texts.pop("a column that is not asked for") == plain
    assert [key == before for key, before in zip(texts["another caption"], plain, strict=True)] == [
        True,
        False,
    ]
    assert [key == before for key, before in zip(texts["lost"], plain, strict=True)] == [
        False,
        True,
    ]
    for name in ("one more column", "by another name"):
        assert not set(texts[name]) & set(plain)
    assert not set(texts["one more column"]) & set(texts["by another name"])


def test_a_derived_uid_holds_the_alt_text_alone(tmp_path):
    """Without uids another alt text is another pair; texts of other columns are not."""
    rows = [{"url": row["url"], "caption": row["caption"], "long": "x"} for row in ROWS]
    table = write_table(tmp_path / "t.parquet", rows)
    (plain,) = planned(tmp_path, table)
    (more,) = planned(tmp_path, table, caption_columns={"words": "long"})
    assert more.key == plain.key
    rows[0]["caption"] = "another"
    (other,) = planned(tmp_path, write_table(tmp_path / "t.parquet", rows))
    assert other.key != plain.key


def test_duplicate_uids_are_found_across_files(tmp_path):
    tables = tmp_path / "tables"
    write_table(tables / "a.parquet", ROWS)
    write_table(tables / "b.parquet", [ROWS[2], {**ROWS[0], "uid": uid(99)}, ROWS[0]])
    with pytest.raises(DataError, match=r"^2 rows") as error:
        planned(tmp_path, tables)
    assert f"{uid(12)} (row 0 of b.parquet)" in str(error.value)
    assert f"{uid(10)} (row 2 of b.parquet)" in str(error.value)
    first, second = planned(tmp_path, tables, on_duplicate_uid="keep_first")
    assert [row["reason"] for row in first.rows()] == [None] * 3
    assert [row["reason"] for row in second.rows()] == ["duplicate_uid", None, "duplicate_uid"]
    assert (first.num_to_fetch, second.num_to_fetch) == (3, 1)


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (ROWS, {"url_column": "urls"}, ["'urls'", "uid, url, caption", "'url'?", "url_column"]),
        (ROWS, {"caption_columns": {"long": "captoin"}}, ["'caption'?", "caption_columns.long"]),
        (ROWS, {"uid_column": "key"}, ["'key'", "acquire.uid_column"]),
        ([*ROWS, {**ROWS[0], "uid": "12-34"}], {}, ["row 3", "'12-34'", "32 hex digits"]),
        ([{**ROWS[0], "uid": None}], {}, ["row 0", "nothing", "32 hex digits"]),
        ([{**ROWS[0], "caption": 7}], {}, ["row 0", "'caption'", "7"]),
        ([{**ROWS[0], "url": 7}], {}, ["row 0", "'url'", "7"]),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path, rows, settings, words):
    table = write_table(tmp_path / "t.parquet", rows)
    with pytest.raises(DataError) as error:
        planned(tmp_path, table, **settings)
    for word in [*words, table]:
        assert word in str(error.value)


def test_an_empty_table_is_refused(tmp_path):
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        planned(tmp_path, tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_an_unreadable_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'url,caption\n"\xff\xfe, {not json')
    with pytest.raises(DataError, match=f"cannot read the table .*{name}"):
        planned(tmp_path, tmp_path / name)


@pytest.mark.parametrize("name", ["nothing.parquet", "nowhere"])
def test_a_missing_table_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}, found none"):
        planned(tmp_path, tmp_path / name)


def test_png_is_not_given_a_jpeg_quality():
    with pytest.raises(ValueError, match="0 to 9, found 95"):
        AcquireConfig(table="t", encode_format="png")


LATIN = "caf\u00e9".encode("latin-1")


def write_latin_parquet(path):
    """A writer that says text and gives bytes, as some do."""
    urls = pa.array([b"http://a/1", b"http://a/" + LATIN, b"http://a/3"], pa.binary())
    texts = pa.array([b"one", b"two", LATIN], pa.binary())
    as_text = [pa.Array.from_buffers(pa.string(), 3, each.buffers()) for each in (urls, texts)]
    pq.write_table(pa.table(dict(zip(("url", "caption"), as_text, strict=True))), path)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_bytes_that_are_not_utf8_cost_their_address_or_their_text_only(tmp_path, name):
    rows = [(b"http://a/1", b"one"), (b"http://a/" + LATIN, b"two"), (b"http://a/3", LATIN)]
    path = tmp_path / name
    if path.suffix == ".parquet":
        write_latin_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_bytes(b"\n".join(b'{"url": "%s", "caption": "%s"}' % row for row in rows))
    else:
        mark = b"\t" if path.suffix == ".tsv" else b","
        path.write_bytes(b"\n".join(mark.join(row) for row in [(b"url", b"caption"), *rows]))
    found = planned_rows(planned(tmp_path, path))
    assert [row["reason"] for row in found] == [None, "bad_url", None]
    assert found[1]["url"] == "http://a/caf\ufffd"
    assert [row["captions"] for row in found] == [{"alt": ["one"]}, {"alt": ["two"]}, {}]
    assert [row["unusable"] for row in found] == [{}, {}, {"alt": 1}]
    assert found[2]["uid"] == uid_of("http://a/3", "caf\ufffd")


def test_half_a_character_in_json_costs_its_text_only(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [
        '{"url": "http://a/1", "caption": "half \\ud83d", "more": ["\\ud83d", "whole", "\\udd25"]}',
        '{"url": "http://a/\\ud83d", "caption": "x"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = planned_rows(planned(tmp_path, path, caption_columns={"words": "more"}))
    assert [row["reason"] for row in found] == [None, "bad_url"]
    assert [row["captions"] for row in found] == [{"words": ["whole"]}, {"alt": ["x"]}]
    assert [row["unusable"] for row in found] == [{"alt": 1, "words": 2}, {}]


def test_an_endless_url_is_not_asked_for(tmp_path):
    rows = [{"url": "http://a/" + "b" * 9_000, "caption": "x"}]
    (part,) = planned(tmp_path, write_table(tmp_path / "t.parquet", rows))
    assert [row["reason"] for row in part.rows()] == ["bad_url"]
